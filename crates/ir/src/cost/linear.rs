//! Exact traffic of a linear step, and the shape of its oblivious transfers.

use super::ot::{self, Choices};
use super::{Flights, Offline, OtUse, packed};
use crate::{Correlation, Direction, LinearStep, MatMulShape, OtKind, Party, Ring, Shape, Traffic};

/// Most transfers that one chunk makes, unless a single value takes more.
const CHUNK_TRANSFERS: u64 = 8192;

/// Most payload bits in one chunk, unless a single value takes more.
const CHUNK_BITS: u64 = 1 << 23;

/// Offline and online traffic of a linear step on a map of shape `input` in `ring`, to the byte.
///
/// Nothing is allocated: a compiler may call it for every choice it weighs. A lowering that does not
/// fit the convolution ([`crate::Lowering::mat_mul`] is `None`) has no products and so no offline traffic;
/// no plan accepts it. The messages of lattice correlations depend on the plan's other steps and are booked by
/// [`super::plan`].
#[must_use]
pub fn linear(step: &LinearStep, input: Shape, ring: Ring) -> (Offline, Flights) {
    let offline = match step.correlation {
        Correlation::Ot { kind, chooser } => OtProduct::new(step, (kind, chooser), input, ring)
            .map(|product| product.offline())
            .unwrap_or_default(),
        Correlation::Lattice(_) | Correlation::Reply(_) => Offline::default(),
    };
    let masked = packed(input.elements() as u64, ring.bits().into());
    (offline, Flights::one_way(Direction::ClientToServer, masked))
}

/// The products of a linear step as one party's bits choose them, cut into chunks.
///
/// For each of `count` products and each `j < inner` the chooser's values `choices[j, 0..rows]` each
/// meet the vector `vectors[j, 0..len]` of the OT sender: value `i` times the vector is added
/// to row `i` of a `rows x len` result. Values go in the order product, `j`, `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtProduct {
    /// The OT extension.
    pub kind: OtKind,
    /// Whose bits are the choices.
    pub chooser: Party,
    /// Independent products.
    pub count: usize,
    /// Inner dimension.
    pub inner: usize,
    /// The chooser's values for each inner index.
    pub rows: usize,
    /// Length of the OT sender's vectors.
    pub len: usize,
    /// Bits of a choosing value.
    pub choice_bits: u32,
    /// The ring of the products.
    pub ring: Ring,
}

impl OtProduct {
    /// The transfers of a step whose correlation is [`Correlation::Ot`] with this kind and chooser; `None`
    /// where its lowering does not fit.
    #[must_use]
    pub fn new(
        step: &LinearStep,
        (kind, chooser): (OtKind, Party),
        input: Shape,
        ring: Ring,
    ) -> Option<Self> {
        let MatMulShape { count, m, k, n } = step.lowering.mat_mul(&step.geometry, input)?;
        let (rows, len, choice_bits) = match chooser {
            Party::Server => (m, n, step.weight_bits),
            Party::Client => (n, m, ring.bits()),
        };
        Some(Self { kind, chooser, count, inner: k, rows, len, choice_bits, ring })
    }

    /// Number of choosing values.
    #[must_use]
    pub const fn values(&self) -> u64 {
        self.count as u64 * self.inner as u64 * self.rows as u64
    }

    /// Values in every chunk but the last.
    #[must_use]
    pub fn values_in_chunk(&self) -> u64 {
        let by_bits = CHUNK_BITS / self.value_bits().max(1);
        (CHUNK_TRANSFERS / u64::from(self.choice_bits)).min(by_bits).max(1)
    }

    /// Bytes of the extension message of a chunk of this many values.
    #[must_use]
    pub const fn extension_bytes(&self, values: u64) -> u64 {
        ot::extension(self.kind, Choices::Chosen, values * self.choice_bits as u64, 1)
    }

    /// Bytes of the payload message of a chunk of this many values.
    #[must_use]
    pub const fn payload_bytes(&self, values: u64) -> u64 {
        packed(values, self.value_bits())
    }

    /// Payload bits for one value: bit `b` takes a vector in `Z_{2^(l-b)}`.
    #[must_use]
    pub const fn value_bits(&self) -> u64 {
        let (l, w) = (self.ring.bits() as u64, self.choice_bits as u64);
        self.len as u64 * (w * l - w * (w - 1) / 2)
    }

    /// What all chunks take.
    #[must_use]
    pub fn offline(&self) -> Offline {
        let (values, chunk) = (self.values(), self.values_in_chunk());
        let (full, rest) = (values / chunk, values % chunk);
        let sum = |bytes: &dyn Fn(u64) -> u64| full * bytes(chunk) + bytes(rest);
        let extension = sum(&|values| self.extension_bytes(values));
        let payload = sum(&|values| self.payload_bytes(values));
        let chosen = Traffic::one_way(self.chooser.sends(), extension, 1);
        let transfers = values * u64::from(self.choice_bits);
        Offline {
            traffic: chosen + Traffic::one_way(self.chooser.peer().sends(), payload, 1),
            ots: OtUse::new(self.kind, self.chooser.peer(), transfers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConvGeometry, Lowering, WinogradTile};

    fn step(geometry: ConvGeometry, lowering: Lowering, chooser: Party, bits: u32) -> LinearStep {
        let correlation = Correlation::Ot { kind: OtKind::Iknp, chooser };
        LinearStep { geometry, lowering, correlation, weight_scale: 12, weight_bits: bits }
    }

    /// Bytes by the literature's formula: `values * sum_b (128 + (l - b) len) / 8`.
    fn formula(values: usize, bits: u32, ring: u32, len: usize) -> f64 {
        let per_value: u64 = (0..bits).map(|b| 128 + u64::from(ring - b) * len as u64).sum();
        values as f64 * per_value as f64 / 8.0
    }

    #[test]
    fn cryptflow2_counts_a_convolution_with_the_mask_choosing_at_full_width() {
        let ring = Ring::new(41).expect("in range");
        let geometry = ConvGeometry::same(64, 64, 3, 1);
        let step = step(geometry, Lowering::Direct, Party::Client, 41);
        let (offline, online) = linear(&step, Shape::new(64, 32, 32), ring);
        let (offline, online) = (offline.traffic, online.traffic());
        let expected = formula(64 * 9 * 1024, 41, 41, 64);
        assert!((offline.bytes() as f64 / expected - 1.0).abs() < 1e-3, "{offline:?}");
        assert_eq!(online.client_to_server, (64 * 1024 * 41_u64).div_ceil(8));
        assert_eq!((offline.rounds, online.rounds), (2, 1));
    }

    #[test]
    fn winograd_costs_sixteen_products_of_tiles() {
        let ring = Ring::new(41).expect("in range");
        let geometry = ConvGeometry::same(512, 256, 3, 1);
        let winograd = Lowering::Winograd(WinogradTile::F2X2_3X3);
        let step = step(geometry, winograd, Party::Server, 41);
        let (Offline { traffic: offline, .. }, _) = linear(&step, Shape::new(512, 4, 4), ring);
        let expected = formula(16 * 512 * 256, 41, 41, 4);
        assert!((offline.bytes() as f64 / expected - 1.0).abs() < 1e-3, "{offline:?}");
        assert!(offline.server_to_client > offline.client_to_server / 2);
    }

    #[test]
    fn narrow_weights_send_only_their_own_bits() {
        let ring = Ring::new(24).expect("in range");
        let geometry = ConvGeometry::same(3, 5, 1, 1);
        let step = step(geometry, Lowering::Direct, Party::Server, 4);
        let product =
            OtProduct::new(&step, (OtKind::Iknp, Party::Server), Shape::new(3, 2, 1), ring)
                .expect("1x1 convolutions are direct");
        assert_eq!((product.values(), product.len), (15, 2));
        assert_eq!(product.value_bits(), 2 * (24 + 23 + 22 + 21));
        let expected = Traffic {
            server_to_client: 128 * (15 * 4_u64).div_ceil(8),
            client_to_server: (15 * 180_u64).div_ceil(8),
            rounds: 2,
        };
        assert_eq!(product.offline().traffic, expected);
    }

    #[test]
    fn chunks_hold_8192_transfers_or_a_mebibyte_or_one_value() {
        let product = |len, choice_bits| OtProduct {
            kind: OtKind::Iknp,
            chooser: Party::Server,
            count: 1,
            inner: 1,
            rows: 1,
            len,
            choice_bits,
            ring: Ring::new(32).expect("in range"),
        };
        assert_eq!(product(1, 8).values_in_chunk(), 1024);
        assert_eq!(product(1024, 8).values_in_chunk(), (1 << 23) / (1024 * 228));
        assert_eq!(product(1 << 20, 8).values_in_chunk(), 1);
        let sum = |w: u32| (0..u64::from(w)).map(|b| 32 - b).sum::<u64>();
        assert!((1..=32).all(|w| product(7, w).value_bits() == 7 * sum(w)));
    }
}
