//! What the parties compute, in the units that a network profile has rates for.

use super::{Offline, OtProduct, step_cost};
use crate::lattice::ReplyStep;
use crate::{Correlation, LinearStep, OtKind, Party, Phase, Plan, Ring, Shape, Step, StepOp};
use std::iter::Sum;
use std::ops::Add;

/// What both parties together compute for a step in a phase: see [`crate::ComputeRates`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// 1-of-2 transfers by kind, in the order of [`OtKind::ALL`].
    pub transfers: [u64; OtKind::ALL.len()],
    /// Vectors that linear steps send, one a transfer.
    pub vectors: u64,
    /// Bytes of those vectors.
    pub payload: u64,
    /// Bytes of the hint that are worked through.
    pub hint: u64,
    /// Products of polynomials in lattice correlations with a reply.
    pub products: u64,
    /// Multiplications in the ring.
    pub multiplications: u64,
    /// Bytes of online messages.
    pub messages: u64,
}

/// What a step has the parties compute. Filling pools of silent transfers counts where they are drawn.
#[must_use]
pub fn step_work(plan: &Plan, step: &Step, phase: Phase) -> Work {
    let (offline, online) = step_cost(plan, step);
    match (phase, &step.op) {
        (Phase::Setup, _) => Work::default(),
        (Phase::Offline, StepOp::Linear(linear)) => {
            let input = plan.fact(step.inputs[0]);
            linear_work(linear, input.shape, input.ring)
        }
        (Phase::Offline, _) => offline_work(&offline),
        (Phase::Online, op) => {
            let multiplications = match op {
                StepOp::Linear(linear) => {
                    linear.geometry.multiplications(plan.fact(step.inputs[0]).shape)
                }
                _ => 0,
            };
            Work { multiplications, messages: online.bytes(), ..Work::default() }
        }
    }
}

/// The transfers behind an offline protocol.
#[must_use]
pub fn offline_work(offline: &Offline) -> Work {
    let transfers = OtKind::ALL.map(|kind| offline.ots.transfers(kind));
    Work { transfers, ..Work::default() }
}

/// What the offline phase of a linear step on a map of shape `input` in `ring` has the parties compute. A lattice
/// correlation is [`hint_work`] or [`reply_work`].
#[must_use]
pub fn linear_work(step: &LinearStep, input: Shape, ring: Ring) -> Work {
    let Correlation::Ot { kind, chooser } = step.correlation else { return Work::default() };
    let Some(product) = OtProduct::new(step, (kind, chooser), input, ring) else {
        return Work::default();
    };
    let offline = product.offline();
    // The payload goes to the party that chooses.
    let payload = match chooser {
        Party::Server => offline.traffic.client_to_server,
        Party::Client => offline.traffic.server_to_client,
    };
    let vectors = product.values() * u64::from(product.choice_bits);
    Work { vectors, payload, ..offline_work(&offline) }
}

/// What a lattice correlation with a reply has the parties compute.
#[must_use]
pub fn reply_work(step: &ReplyStep) -> Work {
    Work { products: step.products(), ..Work::default() }
}

/// What an inference has the client compute with a hint of so many bytes.
#[must_use]
pub fn hint_work(bytes: u64) -> Work {
    Work { hint: bytes, ..Work::default() }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            transfers: std::array::from_fn(|kind| self.transfers[kind] + other.transfers[kind]),
            vectors: self.vectors + other.vectors,
            payload: self.payload + other.payload,
            hint: self.hint + other.hint,
            products: self.products + other.products,
            multiplications: self.multiplications + other.multiplications,
            messages: self.messages + other.messages,
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}
