//! What is not linear: comparisons and all that is made of them.
//!
//! Each protocol has a *correlation*, made offline by both parties and consumed by the online call. Shares are
//! slices of reduced elements of a [`Ring`](copriv_ir::Ring); bits are XOR shares in [`Bits`](crate::Bits). The number
//! of rounds does not depend on the number of elements.

mod activation;
mod argmax;
mod bit_product;
mod comparison;
mod drelu;
mod extend;
mod leaves;
mod max_pool;
mod multiplexer;
mod reveal;
mod selection;
mod tree;
mod truncate;
mod truth_table;
mod wrap;

pub use activation::ActivationCorrelation;
pub use argmax::ArgMaxCorrelation;
pub use bit_product::BitProductCorrelation;
pub use comparison::ComparisonCorrelation;
pub use drelu::drelu;
pub use extend::ExtensionCorrelation;
pub use max_pool::MaxPoolCorrelation;
pub use multiplexer::MultiplexerCorrelation;
pub use reveal::reveal;
pub use truncate::TruncationCorrelation;
pub use wrap::WrapCorrelation;

use crate::{Channel, RuntimeError};
use multiplexer::exchange_bits;

/// Runs an offline protocol whose requests depend on nothing: they all count as sent at the start. What answers a
/// request says so ([`Channel::answer`]).
fn requesting<T>(
    channel: &mut Channel,
    f: impl FnOnce(&mut Channel) -> Result<T, RuntimeError>,
) -> Result<T, RuntimeError> {
    f(&mut channel.lane())
}

#[cfg(test)]
mod tests;
