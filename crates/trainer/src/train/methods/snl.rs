//! Selective Network Linearization (Cho et al., arXiv 2202.02340): alphas of single channels or values fall under a penalty
//! until few enough are left.

use super::parts::{Choice, PartSpace};
use crate::model::PartWeights;
use crate::train::config::PenaltyConfig;

/// The alphas above the threshold.
pub(in crate::train) fn above(weights: &PartWeights, threshold: f32) -> Choice {
    let bits = |list: &[f32]| list.iter().map(|&alpha| alpha > threshold).collect();
    weights.iter().map(|(&node, list)| (node, bits(list))).collect()
}

/// Of the alphas above the threshold the largest whose activated values are no more than `limit`. Of equal ones those that
/// stand for fewer values go first in, then those of earlier layers.
pub(in crate::train) fn largest(
    space: &PartSpace,
    weights: &PartWeights,
    threshold: f32,
    limit: u64,
) -> Choice {
    let mut choice = above(weights, threshold);
    if space.count(&choice) <= limit {
        return choice;
    }
    let mut order: Vec<(f32, u64, copriv_ir::NodeId, usize)> = Vec::new();
    for (&node, bits) in &choice {
        let chosen = (0..bits.len()).filter(|&place| bits[place]);
        order.extend(chosen.map(|place| (weights[&node][place], space.cost(node), node, place)));
    }
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    let mut left = limit;
    for (_, cost, node, place) in order {
        let fits = cost <= left;
        left -= if fits { cost } else { 0 };
        if let Some(bit) = choice.get_mut(&node).and_then(|bits| bits.get_mut(place)) {
            *bit = fits;
        }
    }
    choice
}

/// The penalty's weight for the next epoch: it grows where the count has fallen by less than a share of all values.
pub(in crate::train) fn next_weight(
    config: &PenaltyConfig,
    weight: f64,
    [before, now, all]: [u64; 3],
) -> f64 {
    let fallen = before.saturating_sub(now) as f64;
    if fallen < config.stall * all as f64 { weight * config.growth } else { weight }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::methods::hard;
    use copriv_ir::Granularity;
    use proptest::prelude::*;

    #[test]
    fn a_penalty_grows_where_the_count_stands_still() {
        let config = PenaltyConfig { growth: 1.5, stall: 0.01, ..PenaltyConfig::default() };
        assert_eq!(next_weight(&config, 2.0, [500, 500, 1000]), 3.0);
        assert_eq!(next_weight(&config, 2.0, [500, 491, 1000]), 3.0);
        assert_eq!(next_weight(&config, 2.0, [500, 490, 1000]), 2.0);
        assert_eq!(next_weight(&config, 2.0, [500, 510, 1000]), 3.0, "it may rise, too");
    }

    proptest! {
        #[test]
        fn the_largest_alphas_stay_within_the_limit(
            by_pixel: bool, share in 0.0f64..1.2, threshold in 0.0f32..0.9, seed in 1u64..,
        ) {
            let granularity = if by_pixel { Granularity::Pixel } else { Granularity::Channel };
            let space = PartSpace::small(granularity);
            let mut state = seed;
            let mut weights = hard(&space.found());
            for alpha in weights.values_mut().flatten() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *alpha = (state >> 60) as f32 / 15.0;
            }
            let limit = (space.all() as f64 * share) as u64;
            let choice = largest(&space, &weights, threshold, limit);
            prop_assert!(space.count(&choice) <= limit);
            let (mut least, mut most) = (f32::INFINITY, [0.0f32; 2]);
            for (node, bits) in &choice {
                for (&bit, &alpha) in bits.iter().zip(&weights[node]) {
                    if bit {
                        prop_assert!(alpha > threshold);
                        least = least.min(alpha);
                    } else if alpha > threshold && space.cost(*node) <= limit - space.count(&choice) {
                        most[0] = most[0].max(alpha);
                    } else if alpha > threshold {
                        most[1] = most[1].max(alpha);
                    }
                }
            }
            prop_assert!(most[0] == 0.0, "what fits is in");
            prop_assert!(!by_pixel || most[1] <= least, "{} {least}", most[1]);
        }
    }
}
