//! The client's side of a session.

use super::handshake::handshake;
use super::inference::Inference;
use super::offline::{self, Correlations};
use super::online;
use super::role::ClientRole;
use super::{MAX_PREPARED, Progress, abort};
use crate::linear::ClientLinear;
use crate::ot::{Ots, Prg};
use crate::threads::Threads;
use crate::{Channel, Control, RuntimeError};
use copriv_ir::evaluate::quantise_input;
use copriv_ir::lattice::Hint;
use copriv_ir::{CommTable, Plan, ValueId, cost};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use zeroize::Zeroizing;

/// A session with a server, as the client.
pub struct ClientSession {
    plan: Arc<Plan>,
    role: ClientRole,
    channel: Channel,
    ots: Ots,
    /// What setting up cost, until the first inference takes it over.
    setup: (CommTable, f64),
    /// Tells this session's preparations from another's.
    tag: u64,
    /// Number of the next inference to prepare.
    next: u32,
    /// Inferences run.
    run: u32,
    over: bool,
}

/// An inference of which all is made but the online phase. To be used once, in its own session.
///
/// One that is dropped instead takes up one of [`MAX_PREPARED`] places until the session ends.
pub struct Prepared {
    tag: u64,
    number: u32,
    correlations: Correlations<ClientLinear>,
    comm: CommTable,
    seconds: f64,
    bytes: u64,
}

impl ClientSession {
    /// Agrees with the server on the plan and sets up oblivious transfer.
    ///
    /// # Errors
    /// [`RuntimeError::NotCoPriv`], [`RuntimeError::Version`], [`RuntimeError::RoleClash`],
    /// [`RuntimeError::PlanMismatch`] where the other end is not a server of this plan;
    /// [`RuntimeError::ConnectionLost`], [`RuntimeError::PeerMisbehaved`], [`RuntimeError::Randomness`].
    pub fn connect(channel: Channel, plan: Arc<Plan>) -> Result<Self, RuntimeError> {
        Self::connect_with(channel, plan, Prg::from_os()?)
    }

    /// [`Self::connect`] with randomness from `rng`: for tests, for nobody must be able to guess it.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_with(
        mut channel: Channel,
        plan: Arc<Plan>,
        mut rng: Prg,
    ) -> Result<Self, RuntimeError> {
        let start = Instant::now();
        let tag = rng.next_u64();
        handshake(&mut channel, &plan)?;
        let setup = Ots::setup(&mut channel, rng, &cost::ot_use(&plan));
        let ots = abort(&mut channel, setup)?;
        let setup = (channel.take_comm()?, start.elapsed().as_secs_f64());
        let role =
            ClientRole { lattice: plan.lattice_plan(), hint: None, threads: Threads::new(1)? };
        Ok(Self { plan, role, channel, ots, setup, tag, next: 0, run: 0, over: false })
    }

    /// Gives the session the hint that a plan with lattice correlations needs.
    ///
    /// # Errors
    /// [`RuntimeError::ForeignHint`] where it is not the plan's.
    pub fn set_hint(&mut self, hint: Arc<Hint>) -> Result<(), RuntimeError> {
        let (expected, found) = (self.plan.lattice().map(|lattice| lattice.hint), hint.digest());
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(RuntimeError::ForeignHint { expected, found });
        }
        self.role.hint = Some(hint);
        Ok(())
    }

    /// Computes on so many threads, this one among them; on one where this is not called. Nothing else depends on
    /// it.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] where they cannot be started.
    pub fn with_threads(mut self, count: usize) -> Result<Self, RuntimeError> {
        self.role.threads = Threads::new(count)?;
        Ok(self)
    }

    /// The plan of this session.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Makes the correlations of one inference, for which no image is needed.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`], [`RuntimeError::PeerAborted`], [`RuntimeError::PeerMisbehaved`], after
    /// which every call fails with [`RuntimeError::SessionOver`]; [`RuntimeError::TooManyPrepared`] and
    /// [`RuntimeError::NoHint`], which do no harm.
    pub fn prepare(&mut self, progress: Progress<'_>) -> Result<Prepared, RuntimeError> {
        if (self.next - self.run) as usize >= MAX_PREPARED {
            return Err(RuntimeError::TooManyPrepared { limit: MAX_PREPARED });
        }
        if self.role.lattice.is_some() && self.role.hint.is_none() {
            return Err(RuntimeError::NoHint);
        }
        let start = Instant::now();
        let (correlations, comm, bytes) = self.attempt(|session| {
            session.channel.send_control(Control::Prepare)?;
            let before = session.channel.bytes();
            let Self { plan, role, channel, ots, .. } = session;
            let correlations = offline::prepare(role, channel, ots, plan, progress)?;
            Ok((correlations, channel.take_comm()?, channel.bytes() - before))
        })?;
        let number = self.next;
        self.next += 1;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Prepared { tag: self.tag, number, correlations, comm, seconds, bytes })
    }

    /// Runs a prepared inference on an image, normalised and channel-major as
    /// [`InputSpec::normalise`](copriv_ir::InputSpec::normalise) gives it.
    ///
    /// # Errors
    /// As [`Self::prepare`]; [`RuntimeError::ImageSize`] and [`RuntimeError::ForeignPreparation`], which do no
    /// harm to the session.
    pub fn infer(
        &mut self,
        prepared: Prepared,
        image: &[f32],
        progress: Progress<'_>,
    ) -> Result<Inference, RuntimeError> {
        let Prepared { tag, number, correlations, mut comm, seconds, bytes } = prepared;
        if tag != self.tag {
            return Err(RuntimeError::ForeignPreparation);
        }
        let (expected, found) = (self.plan.fact(ValueId(0)).shape.elements(), image.len());
        if expected != found {
            return Err(RuntimeError::ImageSize { expected, found });
        }
        let start = Instant::now();
        let input = Zeroizing::new(quantise_input(self.plan.fact(ValueId(0)), image));
        let (revealed, online) = self.attempt(|session| {
            session.channel.send_control(Control::Infer(number))?;
            let Self { plan, role, channel, .. } = session;
            let mut progress = |phase, step, online| progress(phase, step, bytes + online);
            let revealed = online::run(role, channel, plan, (input, correlations), &mut progress)?;
            Ok((revealed.unwrap_or_default(), channel.take_comm()?))
        })?;
        self.run += 1;
        let (setup, setup_seconds) = std::mem::take(&mut self.setup);
        for (step, phase, traffic) in setup.entries().chain(online.entries()) {
            comm.book(step, phase, traffic);
        }
        let seconds = [setup_seconds, seconds, start.elapsed().as_secs_f64()];
        Ok(self.inference(&revealed, comm, seconds))
    }

    /// Ends the session in good order.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`]; [`RuntimeError::SessionOver`] where an earlier call failed.
    pub fn goodbye(mut self) -> Result<(), RuntimeError> {
        self.attempt(|session| session.channel.send_control(Control::Goodbye))
    }

    fn inference(&self, revealed: &[u64], comm: CommTable, seconds: [f64; 3]) -> Inference {
        let (ring, scale) =
            self.plan.values().last().map_or((None, 0), |fact| (Some(fact.ring), fact.scale));
        let logits = revealed.iter().filter_map(|&logit| Some(ring?.to_signed(logit))).collect();
        Inference { logits, scale, comm, seconds }
    }

    /// Does something that leaves the session unusable where it fails.
    fn attempt<T>(
        &mut self,
        action: impl FnOnce(&mut Self) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        if self.over {
            return Err(RuntimeError::SessionOver);
        }
        let result = action(self);
        self.over = result.is_err();
        abort(&mut self.channel, result)
    }
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession").field("plan", &self.plan.digest()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("number", &self.number).finish_non_exhaustive()
    }
}
