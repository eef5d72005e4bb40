//! Linear correlations with a reply, for clients that run once: nothing is downloaded beforehand.
//!
//! What the client sends is what it sends for a correlation with a hint, in polynomials of degree 4096: the low bits of `b = a s + e`
//! and the carrier `b0 = a0 s + e0`, its public key for one inference. The server answers each product with `c1 = W a + u a0 + e1`,
//! which is a hint with `u` and `e1` of this inference alone, and `c0 = W b + u b0 - S q / 2^l + f` at the outputs: an encryption of `W R - S`
//! that is re-randomised by one of zero and flooded by `f`. Both are trimmed to what exact decoding needs.
//! The argument, with every condition, is in `docs/lattice.md`.

mod choose;
mod client;
mod server;
#[cfg(test)]
mod tests;

pub use choose::{ReplyChoice, choose_reply};
pub use client::ReplySecret;
pub use server::{ReplyKey, ReplyMasks};

use super::layout::Layout;
use super::noise::LatticeLayer;
use super::parameters::LatticeSet;
use super::server::Upload;
use super::step::{LatticeStep, Shared, UPLOAD_TAG};
use super::window::Window;
use crate::packing::Unpacker;
use crate::{ConvGeometry, Ring, Shape, StepId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The flood hides an output's noise up to this power of two.
pub const FLOOD_BITS: u32 = 40;

/// Deviations of an output's noise that the flood counts with.
pub const FLOODED_DEVIATIONS: f64 = 6.0;

/// Bits of a coefficient of `c0` beyond the ring's: it is sent to a quarter of the gap between multiples of `q / 2^l`.
const NOUGHT_BITS: u32 = 2;

/// Bits of a coefficient of `c1` beyond the ring's. What is left out comes to a deviation of 0.0148 of the gap in an output, and flood (1/4) and
/// rounding of `c0` (1/8) leave 8.4 of these.
const FIRST_BITS: u32 = 10;

/// The public parameters of one linear step's correlation with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplyLayer {
    /// Low bits that the client leaves out of what it sends for the inputs.
    pub input_rounding: u32,
    /// The squares of the weights of each product sum to at most two to this power.
    pub log_norm: u32,
    /// Output channels that share a product.
    pub slots: u32,
}

/// A linear step with all that is public of its correlation with a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyStep {
    /// The step as one with a hint, of which `c1` is a part each.
    step: LatticeStep,
    layer: ReplyLayer,
}

/// Why a step has no correlation with a reply of these parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Unfit {
    #[error("its kernel fits no polynomial in so many slots, or its map is too large")]
    Layout,
    #[error("the noise of its outputs needs a narrower ring to be flooded for {FLOOD_BITS} bits")]
    Noise,
}

impl ReplyStep {
    /// Step `id` on inputs of this shape and ring, where carriers are rounded so far.
    ///
    /// # Errors
    /// [`Unfit`] where the flood would not hide the noise: see [`Self::is_flooded`].
    pub fn new(
        id: StepId,
        layer: ReplyLayer,
        carrier_rounding: u32,
        (geometry, window): (&ConvGeometry, Window),
        (input, ring): (Shape, Ring),
    ) -> Result<Self, Unfit> {
        let around = window.geometry(geometry);
        let layout = Layout::new(&around, input, LatticeSet::REPLY, layer.slots as usize);
        let layout = Arc::new(layout.ok_or(Unfit::Layout)?);
        Self::with_layout((id, window.source), layer, carrier_rounding, (geometry, layout, ring))
    }

    fn with_layout(
        ids: (StepId, StepId),
        layer: ReplyLayer,
        carrier_rounding: u32,
        of: (&ConvGeometry, Arc<Layout>, Ring),
    ) -> Result<Self, Unfit> {
        let shared = Shared { set: LatticeSet::REPLY, secrets: 1, carrier_rounding };
        let modulus = shared.set.modulus_bits();
        let hint_rounding = modulus.checked_sub(of.2.bits() + FIRST_BITS).ok_or(Unfit::Noise)?;
        let ReplyLayer { input_rounding, log_norm, slots } = layer;
        let hinted =
            LatticeLayer { input_rounding, hint_rounding, log_norm, first_secret: 0, slots };
        let step = LatticeStep::with_layout(ids, hinted, shared, of);
        let step = Self { step, layer };
        if step.is_flooded() { Ok(step) } else { Err(Unfit::Noise) }
    }

    /// Its position in the plan.
    #[must_use]
    pub const fn id(&self) -> StepId {
        self.step.id
    }

    /// Its parameters.
    #[must_use]
    pub const fn layer(&self) -> ReplyLayer {
        self.layer
    }

    /// Its ring.
    #[must_use]
    pub const fn ring(&self) -> Ring {
        self.step.ring
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.step.layout
    }

    /// Standard deviation of an output's noise before the flood, in units of 1 modulo `q`.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        // What is left out of `c1` is left out after the noise was added.
        let layer = LatticeLayer { hint_rounding: 0, ..self.step.layer };
        layer.deviation(self.step.set, self.step.carrier_rounding)
    }

    /// Whether the flood, uniform in a range of half the gap, hides six deviations of the noise for 40 bits:
    /// `6 sigma 2^40 <= q / 2^(l+2)`.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        let flood = f64::from(self.flood_bits() - 1).exp2();
        let input_fits = self.step.layer.input_rounding < self.step.gap_bits();
        input_fits && FLOODED_DEVIATIONS * self.deviation() * f64::from(FLOOD_BITS).exp2() <= flood
    }

    /// `log2` of the number of values that the flood takes: half the gap.
    const fn flood_bits(&self) -> u32 {
        self.step.gap_bits() - 1
    }

    /// Bits of a coefficient of `c0`.
    #[must_use]
    pub const fn nought_bits(&self) -> u32 {
        self.step.ring.bits() + NOUGHT_BITS
    }

    /// Bits of a coefficient of `c1`.
    #[must_use]
    pub const fn first_bits(&self) -> u32 {
        self.step.hint_bits()
    }

    /// The step whose upload it takes: its own, or that of an earlier step that reads the same value.
    #[must_use]
    pub const fn source(&self) -> StepId {
        self.step.source
    }

    /// Whether it takes the upload of an earlier step.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.step.is_shared()
    }

    /// Bytes that the client sends, the carrier among them where `carries` says so; none where it takes another step's upload.
    #[must_use]
    pub fn upload_bytes(&self, carries: bool) -> u64 {
        self.step.message_bytes(usize::from(carries))
    }

    /// Reads what a message has of its upload; zeros where it ends early.
    #[must_use]
    pub fn read_upload(&self, message: &mut Unpacker<'_>) -> Upload {
        self.step.read_upload(message)
    }

    /// Bytes of the reply.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        let products = 0..self.step.layout.polynomials();
        UPLOAD_TAG as u64 + products.map(|number| self.product_bytes(number) as u64).sum::<u64>()
    }

    /// Bytes of one product's part of the reply.
    fn product_bytes(&self, number: usize) -> usize {
        let layout = &self.step.layout;
        let first = self.step.set.degree() * self.first_bits() as usize;
        let channels = self.channels(number).len() * self.nought_bits() as usize;
        let bits = layout.tiles().iter().map(|tile| first + channels * tile.outputs());
        bits.sum::<usize>().div_ceil(8)
    }

    /// The output channels of a product.
    fn channels(&self, number: usize) -> std::ops::Range<usize> {
        let layout = &self.step.layout;
        let first = number * layout.slots();
        first..layout.geometry().out_channels.min(first + layout.slots())
    }

    /// Products of polynomials that the server computes: those of kernels with chunks.
    #[must_use]
    pub fn products(&self) -> u64 {
        let layout = &self.step.layout;
        let tiles = layout.tiles().len() as u64;
        let (chunks, polynomials) = (layout.chunks() as u64, layout.polynomials() as u64);
        // With groups a kernel has weights on the chunks of its own inputs alone.
        let met = chunks.div_ceil(layout.geometry().groups as u64);
        tiles * polynomials * met.max(1)
    }
}
