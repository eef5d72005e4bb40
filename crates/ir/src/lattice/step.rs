//! What both parties know of one linear step's correlation.

use super::layout::Layout;
use super::noise::LatticeLayer;
use super::parameters::{LatticeSet, SAFE_DEVIATIONS};
use super::window::Window;
use crate::{ConvGeometry, Ring, Shape, StepId};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Bytes at the start of each step's upload that say which inference of which session it is for.
pub const UPLOAD_TAG: usize = 16;

/// The weights of one chunk in a kernel polynomial, with their places.
pub(super) type Kernel = Zeroizing<Vec<(usize, i64)>>;

/// A linear step with all that is public of its lattice correlation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatticeStep {
    pub(super) id: StepId,
    pub(super) set: LatticeSet,
    pub(super) layer: LatticeLayer,
    pub(super) ring: Ring,
    /// Its own convolution; the layout's has the window's kernel.
    pub(super) geometry: ConvGeometry,
    /// Whose upload it takes.
    pub(super) source: StepId,
    pub(super) layout: Arc<Layout>,
    /// Secrets of an inference.
    pub(super) secrets: usize,
    pub(super) carrier_rounding: u32,
}

/// What all lattice correlations of a plan share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The parameter set.
    pub set: LatticeSet,
    /// The client's secrets for one inference.
    pub secrets: u32,
    /// Low bits that the client leaves out of a carrier.
    pub carrier_rounding: u32,
}

impl LatticeStep {
    /// Step `id` on inputs of this shape and ring, with its own upload or another's; `None` where the window has no layout.
    #[must_use]
    pub fn new(
        id: StepId,
        layer: LatticeLayer,
        shared: Shared,
        (geometry, window): (&ConvGeometry, Window),
        (input, ring): (Shape, Ring),
    ) -> Option<Self> {
        let layout =
            Layout::new(&window.geometry(geometry), input, shared.set, layer.slots as usize)?;
        let layout = Arc::new(layout);
        Some(Self::with_layout((id, window.source), layer, shared, (geometry, layout, ring)))
    }

    pub(super) fn with_layout(
        (id, source): (StepId, StepId),
        layer: LatticeLayer,
        shared: Shared,
        (geometry, layout, ring): (&ConvGeometry, Arc<Layout>, Ring),
    ) -> Self {
        let Shared { set, secrets, carrier_rounding } = shared;
        let (geometry, secrets) = (*geometry, secrets as usize);
        Self { id, set, layer, ring, geometry, source, layout, secrets, carrier_rounding }
    }

    /// Its position in the plan.
    #[must_use]
    pub const fn id(&self) -> StepId {
        self.id
    }

    /// The step whose upload it takes: its own, or that of an earlier step that reads the same value.
    #[must_use]
    pub const fn source(&self) -> StepId {
        self.source
    }

    /// Whether it takes the upload of an earlier step.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.source.0 != self.id.0
    }

    /// What it shares with the plan's other lattice steps.
    #[must_use]
    pub const fn shared(&self) -> Shared {
        let (set, carrier_rounding) = (self.set, self.carrier_rounding);
        Shared { set, secrets: self.secrets as u32, carrier_rounding }
    }

    /// Its ring.
    #[must_use]
    pub const fn ring(&self) -> Ring {
        self.ring
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The secret of a tile.
    #[must_use]
    pub fn secret_of(&self, tile: usize) -> usize {
        (self.layer.first_secret as usize + tile) % self.secrets.max(1)
    }

    /// Bits of an own cell: the low bits of a residue.
    #[must_use]
    pub const fn own_bits(&self) -> u32 {
        self.gap_bits() - self.layer.input_rounding
    }

    /// Bits of any other cell.
    #[must_use]
    pub const fn full_bits(&self) -> u32 {
        self.set.modulus_bits() - self.layer.input_rounding
    }

    /// Bytes of the message with its upload: a tag, so many carriers, inputs; none where it takes another step's.
    #[must_use]
    pub fn message_bytes(&self, carriers: usize) -> u64 {
        let carriers = carriers as u64 * self.carrier_bits();
        if self.is_shared() {
            return 0;
        }
        UPLOAD_TAG as u64 + (carriers + self.upload_bits()).div_ceil(8)
    }

    /// Bits of the upload, without carriers.
    #[must_use]
    pub fn upload_bits(&self) -> u64 {
        let (own, full) = self.layout.sent();
        own * u64::from(self.own_bits()) + full * u64::from(self.full_bits())
    }

    /// Bits of a carrier.
    #[must_use]
    pub const fn carrier_bits(&self) -> u64 {
        self.set.dimension() as u64 * (self.set.modulus_bits() - self.carrier_rounding) as u64
    }

    /// Bits of a coefficient of the hint.
    #[must_use]
    pub const fn hint_bits(&self) -> u32 {
        self.set.modulus_bits() - self.layer.hint_rounding
    }

    /// Bytes of one polynomial of the hint.
    #[must_use]
    pub const fn hint_polynomial_bytes(&self) -> usize {
        (self.set.dimension() * self.hint_bits() as usize).div_ceil(8)
    }

    /// Bytes of its part of the hint.
    #[must_use]
    pub fn hint_bytes(&self) -> u64 {
        (self.layout.polynomials() * self.hint_polynomial_bytes()) as u64
    }

    /// `log2` of the gap `q / 2^l` between the multiples that an output is rounded to.
    pub(super) const fn gap_bits(&self) -> u32 {
        self.set.modulus_bits() - self.ring.bits()
    }

    /// How near to a boundary an output may not come.
    pub(super) fn margin(&self) -> u128 {
        (SAFE_DEVIATIONS * self.deviation()).ceil() as u128
    }

    /// Standard deviation of an output's noise, in units of 1 modulo `q`.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        self.layer.deviation(self.set, self.carrier_rounding)
    }

    /// The part of secrets that are drawn again because of each tile: the expected number of outputs at risk.
    pub fn risks(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        let risk = self.layer.risk(self.set, self.carrier_rounding, self.ring);
        let channels = self.layout.geometry().out_channels;
        let tiles = self.layout.tiles().iter().enumerate();
        tiles.map(move |(t, tile)| (self.secret_of(t), risk * (tile.outputs() * channels) as f64))
    }

    /// The kernels of one polynomial of the hint, by chunk.
    pub(super) fn kernels(&self, weights: &[i64], polynomial: usize) -> Vec<Kernel> {
        let layout = &self.layout;
        let ConvGeometry { in_channels, out_channels, kernel, groups, .. } = self.geometry;
        let (inputs, outputs) = (in_channels / groups, out_channels / groups);
        let taps = kernel * kernel;
        let mut kernels = vec![Kernel::default(); layout.chunks()];
        let first = polynomial * layout.slots();
        for channel in first..out_channels.min(first + layout.slots()) {
            let weights = &weights[channel * inputs * taps..][..inputs * taps];
            for (at, &weight) in weights.iter().enumerate() {
                let (input, tap) = (channel / outputs * inputs + at / taps, at % taps);
                let (row, column) = self.tap(tap);
                let place = layout.weight_at(channel - first, input, row, column);
                kernels[layout.chunk_of(input)].push((place, weight));
            }
        }
        kernels
    }

    /// Which public polynomials a chunk of a tile is multiplied with: those of the chunk, for tiles have secrets of their own,
    /// or where one secret serves all, of chunk and tile.
    pub(super) const fn public_part(&self, tile: usize, chunk: usize) -> usize {
        match self.set {
            LatticeSet::R512x5 | LatticeSet::R512x6 => chunk,
            LatticeSet::R4096x1 => tile << 20 | chunk,
        }
    }

    /// Where a tap of the kernel stands in the window.
    pub(super) fn tap(&self, tap: usize) -> (usize, usize) {
        let kernel = self.geometry.kernel;
        let offset = self.layout.geometry().padding - self.geometry.padding;
        (tap / kernel + offset, tap % kernel + offset)
    }

    /// Index of the public polynomials of a part of the input.
    pub(super) const fn public_index(&self, part: usize) -> u64 {
        (self.source.0 as u64) << 40 | part as u64
    }

    /// Index of a stream for one part of this step.
    pub(super) const fn index(&self, part: usize) -> u64 {
        (self.id.0 as u64) << 40 | part as u64
    }
}
