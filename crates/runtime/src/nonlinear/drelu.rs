//! Whether a shared number is not negative.

use super::ComparisonCorrelation;
use crate::bits::Bits;
use crate::{Channel, RuntimeError};
use copriv_ir::cost::ComparisonLayout;
use copriv_ir::{Comparison, Party, Ring};
use zeroize::Zeroizing;

/// The comparison behind [`drelu`] in `ring`: of one bit less than the ring.
pub(super) fn drelu_layout(ring: Ring, comparison: &Comparison) -> ComparisonLayout {
    ComparisonLayout::new(ring.bits() - 1, comparison)
}

/// XOR shares of `1{x >= 0}`, one for each share of `x`. `correlation` was prepared for as many
/// comparisons of one bit less than the ring.
///
/// With `h = 2^(l-1)` and `x' = x mod h`:
///
/// | server: `x0` | | client: `x1` |
/// |---|---|---|
/// | `h - 1 - x0'` | `<->` [`ComparisonCorrelation::compare`] | `x1'` |
/// | top bit of `x0`, plus its share of the carry, plus 1 | | top bit of `x1` plus its share of the carry |
///
/// # Errors
/// As [`ComparisonCorrelation::compare`].
///
/// # Panics
/// If there are not as many shares as comparisons prepared.
pub fn drelu(
    channel: &mut Channel,
    correlation: ComparisonCorrelation,
    ring: Ring,
    shares: &[u64],
) -> Result<Bits, RuntimeError> {
    let low = ring.mask() >> 1;
    let numbers = shares.iter().map(|share| match channel.party() {
        Party::Server => low - (share & low),
        Party::Client => share & low,
    });
    let numbers = Zeroizing::new(numbers.collect::<Vec<_>>());
    let carries = ComparisonCorrelation::compare(channel, vec![(correlation, &numbers)])?;
    let top = ring.bits() - 1;
    let mut signs = Bits::with_capacity(shares.len());
    shares.iter().for_each(|share| signs.push(share >> top & 1));
    carries.iter().for_each(|carry| signs.xor(carry));
    if channel.party() == Party::Server {
        signs.invert();
    }
    Ok(signs)
}
