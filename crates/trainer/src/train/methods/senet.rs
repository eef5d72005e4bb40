//! SENet (Kundu et al., arXiv 2301.09254): every layer gets a share of the activated values by how sensitive it is, then the
//! channels or values that keep theirs are found within each layer.
//!
//! The paper's three stages, as they are here:
//!
//! 1. *Sensitivity.* The paper takes a layer's sensitivity to the pruning of its weights as a stand-in for that to the loss of
//!    its activations. Here the latter is measured: the rise in loss without all of the layer's activations, as for the methods
//!    `dp` and `deepreduce`.
//! 2. *Allocation.* Each layer's share of the budget is proportional to its sensitivity; what a layer cannot use goes to the
//!    others by theirs.
//! 3. *Masks.* The paper fills a layer's budget with the positions where the maps with and without activations differ most, and
//!    goes on training while masks follow. Here the alphas of channels or values begin as the mean of that difference over
//!    training images, and are trained with the weights; in each step every layer keeps its largest alphas, with a
//!    straight-through gradient.
//!
//! `[distillation]` says in which stages there is a teacher.

use super::parts::{Choice, PartSpace};
use crate::model::PartWeights;
use copriv_ir::NodeId;
use std::collections::BTreeMap;

/// How many channels or values each activation keeps, by node: in all no more than `limit` activated values. `sensitivities` are
/// by gate; layers that the network is better off without get what the others cannot use, in proportion to their values.
pub(in crate::train) fn allocate(
    space: &PartSpace,
    sensitivities: &[f64],
    limit: u64,
) -> BTreeMap<NodeId, usize> {
    let layers: Vec<Share> = space
        .layers()
        .map(|(node, gate, values, of_each)| Share {
            node,
            values: values as f64,
            of_each: of_each as f64,
            sensitivity: sensitivities.get(gate).map_or(0.0, |rise| rise.max(0.0)),
        })
        .collect();
    let mut shares = shares(&layers, |layer| layer.sensitivity, limit as f64);
    let rest = limit as f64 - shares.iter().sum::<f64>();
    let of_others = |layer: &Share| if layer.sensitivity > 0.0 { 0.0 } else { layer.values };
    let others = self::shares(&layers, of_others, rest.max(0.0));
    shares.iter_mut().zip(others).for_each(|(share, other)| *share += other);
    // Whole channels: first what is surely there, then the largest rests.
    let mut counts: Vec<f64> =
        layers.iter().zip(&shares).map(|(layer, share)| (share / layer.of_each).floor()).collect();
    let used = |(layer, count): (&Share, &f64)| layer.of_each * count;
    let mut left = limit as f64 - layers.iter().zip(&counts).map(used).sum::<f64>();
    let mut order: Vec<usize> = (0..layers.len()).collect();
    let rest = |at: usize| shares[at] / layers[at].of_each - counts[at];
    order.sort_by(|&a, &b| rest(b).total_cmp(&rest(a)));
    for at in order {
        let layer = &layers[at];
        let has_more = (counts[at] + 1.0) * layer.of_each <= layer.values && shares[at] > 0.0;
        if has_more && layer.of_each <= left {
            counts[at] += 1.0;
            left -= layer.of_each;
        }
    }
    layers.iter().zip(counts).map(|(layer, count)| (layer.node, count as usize)).collect()
}

struct Share {
    node: NodeId,
    values: f64,
    of_each: f64,
    sensitivity: f64,
}

/// Parts of `limit` in proportion to the weights, none larger than its layer.
fn shares(layers: &[Share], weight: impl Fn(&Share) -> f64, limit: f64) -> Vec<f64> {
    let mut shares = vec![0.0; layers.len()];
    let mut open: Vec<usize> = (0..layers.len()).filter(|&at| weight(&layers[at]) > 0.0).collect();
    let mut left = limit;
    loop {
        let sum: f64 = open.iter().map(|&at| weight(&layers[at])).sum();
        let share = |at: usize| left * weight(&layers[at]) / sum;
        let is_full = |at: &usize| share(*at) >= layers[*at].values;
        let (full, others): (Vec<usize>, Vec<usize>) = open.iter().copied().partition(is_full);
        if full.is_empty() {
            others.iter().for_each(|&at| shares[at] = share(at));
            return shares;
        }
        for at in full {
            shares[at] = layers[at].values;
            left -= layers[at].values;
        }
        open = others;
    }
}

/// Of what there is of every activation the largest alphas, as many as it keeps; the first of equal ones.
pub(in crate::train) fn within(
    space: &PartSpace,
    counts: &BTreeMap<NodeId, usize>,
    weights: &PartWeights,
) -> Choice {
    let choose = |(node, mut bits): (NodeId, Vec<bool>)| {
        let list = &weights[&node];
        let mut order: Vec<usize> = (0..bits.len()).filter(|&place| bits[place]).collect();
        let count = counts.get(&node).copied().unwrap_or(0).min(order.len());
        let by_size = |a: &usize, b: &usize| list[*b].total_cmp(&list[*a]).then(a.cmp(b));
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count, by_size);
        }
        order[count..].iter().for_each(|&place| bits[place] = false);
        (node, bits)
    };
    space.found().into_iter().map(choose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::methods::hard;
    use copriv_ir::Granularity;
    use proptest::prelude::*;

    #[test]
    fn shares_are_proportional_and_what_is_too_much_goes_to_the_others() {
        let space = PartSpace::small(Granularity::Pixel);
        let mut sensitivities = vec![0.0; 19];
        (sensitivities[3], sensitivities[4], sensitivities[18]) = (3.0, 1.0, -1.0);
        let counts = |limit| -> Vec<usize> {
            let counts = allocate(&space, &sensitivities, limit);
            counts.into_values().collect()
        };
        assert_eq!(counts(1000)[3..5], [750, 250]);
        // Layer 3 has 2048 values.
        assert_eq!(counts(3000)[3..5], [2048, 952]);
        // More than the two can use: half of what is left of the network.
        let (others, all) = (space.all() as usize - 4096, space.all() as usize);
        let half = counts((4096 + others / 2) as u64);
        assert_eq!(half[3..5], [2048, 2048]);
        assert_eq!((half[0], half[18]), (1024, 16 * 16 / 2));
        assert_eq!(counts(all as u64).iter().sum::<usize>(), all);
    }

    proptest! {
        #[test]
        fn a_budget_holds_and_is_used_but_for_less_than_a_channel(
            sensitivities in prop::collection::vec(-0.1f64..2.0, 19), share in 0.0f64..1.0, by_pixel: bool,
        ) {
            let granularity = if by_pixel { Granularity::Pixel } else { Granularity::Channel };
            let space = PartSpace::small(granularity);
            let limit = (space.all() as f64 * share) as u64;
            let counts = allocate(&space, &sensitivities, limit);
            let mut weights = hard(&space.found());
            for (number, alpha) in weights.values_mut().flatten().enumerate() {
                *alpha = (number * 7919 % 997) as f32 / 997.0;
            }
            let choice = within(&space, &counts, &weights);
            let used = space.count(&choice);
            prop_assert!(used <= limit);
            let largest = if by_pixel { 1 } else { 256 };
            prop_assert!(used + 19 * largest >= limit, "{used} of {limit}");
            for (node, bits) in &choice {
                prop_assert_eq!(bits.iter().filter(|bit| **bit).count(), counts[node]);
                let of = |state: bool| {
                    let chosen = bits.iter().zip(&weights[node]).filter(move |(bit, _)| **bit == state);
                    chosen.map(|(_, alpha)| *alpha)
                };
                let least = of(true).fold(f32::INFINITY, f32::min);
                prop_assert!(of(false).all(|alpha| alpha <= least));
            }
        }
    }
}
