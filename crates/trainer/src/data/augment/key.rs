//! What random choices depend on.
//!
//! No generator is carried along from image to image: an interrupted run goes on with the same data, whatever
//! threads prepare it.

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// What an image's variation depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleKey {
    /// Seed of the run.
    pub seed: u64,
    /// Epochs completed, over all stages.
    pub epoch: u64,
    /// Position in the data set, or number of a batch within the epoch.
    pub index: u64,
}

impl SampleKey {
    /// Generators of different purposes are independent.
    pub(crate) fn generator(self, purpose: &[u8; 8]) -> ChaCha8Rng {
        let mut key = [0; 32];
        let parts = [self.seed.to_le_bytes(), self.epoch.to_le_bytes(), self.index.to_le_bytes()];
        for (slot, part) in key.chunks_exact_mut(8).zip(parts.iter().chain([purpose])) {
            slot.copy_from_slice(part);
        }
        ChaCha8Rng::from_seed(key)
    }
}

/// The order in which an epoch visits `count` images.
#[must_use]
pub fn epoch_order(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut SampleKey { seed, epoch, index: 0 }.generator(b"order   "));
    order
}

/// A number with the density `x^(a-1) (1-x)^(a-1)` on 0..1, by Jöhnk's rejection; `a` at most a few.
pub(super) fn beta(generator: &mut ChaCha8Rng, a: f64) -> f64 {
    loop {
        let mut power = || generator.random::<f64>().powf(1.0 / a);
        let (x, y) = (power(), power());
        // Both underflow for tiny a, where nearly all mass is at the ends.
        if x + y == 0.0 {
            return f64::from(u8::from(generator.random::<bool>()));
        }
        if x + y <= 1.0 {
            return x / (x + y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_that_depends_on_the_epoch() {
        let mut order = epoch_order(1, 2, 50);
        assert_eq!(order, epoch_order(1, 2, 50));
        assert_ne!(order, epoch_order(1, 3, 50));
        assert_ne!(order, epoch_order(2, 2, 50));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..50));
    }

    /// Mean 1/2, variance `1 / (4 (2a + 1))`.
    #[test]
    fn beta_has_its_moments() {
        for a in [0.2, 1.0, 2.5] {
            let mut generator = SampleKey { seed: 5, epoch: 0, index: 0 }.generator(b"test    ");
            let draws: Vec<f64> = (0..20_000).map(|_| beta(&mut generator, a)).collect();
            let mean = draws.iter().sum::<f64>() / 20_000.0;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
            assert!((mean - 0.5).abs() < 0.01, "{a}: {mean}");
            assert!((variance - 0.25 / (2.0 * a + 1.0)).abs() < 0.005, "{a}: {variance}");
        }
    }
}
