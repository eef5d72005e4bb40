//! The gates with the largest alphas (CoPriv, arXiv 2311.01737), which compete for what the limits admit.
//!
//! The paper's loss pulls every alpha down by its bytes while nearly every activation is of some use, so that most alphas would end
//! at 1 and say nothing about which block matters more. Here alphas are a relaxation of the choice itself: after each step they are
//! moved to the nearest ones within the limits (projected gradient descent), so that what one block gains others lose.
//!
//! They may begin by measured importance, so that an unlucky choice need not be unlearnt. Moved within a limit of bytes each is what
//! its gate is worth less a price per byte: a relaxation of the best set that `dp` finds, which training then corrects where
//! importances do not add up.
//!
//! A block that is removed is missed, so that its alpha rises until it comes back and another goes: with the smallest difference
//! deciding, blocks of like importance would change places with every few steps, and no weights fit what is left at the end. So a
//! block comes back only once it is ahead of one that stays by [`LEAD`], which leaves the weights the time to do without it.

use super::importance::Importances;
use super::limits::Limits;
use crate::train::gates::GateCosts;

/// By how much the alpha of a removed gate must be the larger one to take a kept gate's place.
const LEAD: f32 = 0.1;

/// The first alphas of searched gates in proportion to the rise in loss without each, the largest 1. One without which the network
/// answers in no numbers has 1 as well, and one without which it is better off 0.
pub(in crate::train) fn by_importance(costs: &GateCosts, rises: &[f64]) -> Vec<f32> {
    let measured = rises.iter().copied().filter(|rise| *rise < Importances::MOST);
    let largest = measured.fold(f64::MIN_POSITIVE, f64::max);
    costs.first_alphas(|gate| (rises[gate] / largest).clamp(0.0, 1.0))
}

/// The gates to keep: those that may not go, then in falling order of their alphas, those of gates that are `kept` so far larger by
/// [`LEAD`], all that the limits still admit. Of equal ones, those whose removal saves least stay.
pub(in crate::train) fn select(
    costs: &GateCosts,
    alphas: &[f32],
    kept: &[bool],
    limits: &Limits,
) -> Vec<bool> {
    let searched = costs.searched();
    let mut order: Vec<usize> = (0..alphas.len()).filter(|&gate| searched[gate]).collect();
    let rank = |gate: usize| alphas[gate] + if kept[gate] { LEAD } else { 0.0 };
    order.sort_by(|&a, &b| {
        let by_saving = || costs.saving(a).total_cmp(&costs.saving(b));
        rank(b).total_cmp(&rank(a)).then_with(by_saving)
    });
    let mut kept = costs.fixed();
    let (mut count, mut bytes) = (0, costs.smallest());
    for gate in order {
        let with_it = bytes + costs.saving(gate);
        if count < limits.gates && alphas[gate] >= limits.threshold && with_it <= limits.bytes {
            kept[gate] = true;
            (count, bytes) = (count + 1, with_it);
        }
    }
    kept
}

/// Moves the searched alphas to the nearest ones of 0 to 1 that the limits admit as if each kept its share of a gate: no more
/// in all than the gates that may stay, then no more bytes than those. Others stay as they are.
pub(in crate::train) fn project(costs: &GateCosts, alphas: &mut [f32], limits: &Limits) {
    let searched: Vec<usize> = (0..alphas.len()).filter(|&gate| costs.searched()[gate]).collect();
    let mut shares: Vec<f64> = searched.iter().map(|&gate| f64::from(alphas[gate])).collect();
    if limits.gates < searched.len() {
        within_budget(&mut shares, &vec![1.0; searched.len()], limits.gates as f64);
    }
    // A gate whose removal adds bytes is no burden.
    let savings: Vec<f64> = searched.iter().map(|&gate| costs.saving(gate).max(0.0)).collect();
    let largest = savings.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let weights: Vec<f64> = savings.iter().map(|saving| saving / largest).collect();
    if limits.bytes.is_finite() {
        within_budget(&mut shares, &weights, (limits.bytes - costs.smallest()) / largest);
    }
    let nearest = shares.into_iter().map(|share| share.clamp(0.0, 1.0) as f32);
    searched.into_iter().zip(nearest).for_each(|(gate, share)| alphas[gate] = share);
}

/// The nearest shares of 0 to 1 whose weighted sum is no more than `budget`: each less by the same multiple of its weight, which
/// is found by bisection. Weights are 0 to 1.
fn within_budget(shares: &mut [f64], weights: &[f64], budget: f64) {
    let reduced = |multiple: f64| {
        let pairs = shares.iter().zip(weights);
        pairs.map(move |(share, weight)| (share - multiple * weight).clamp(0.0, 1.0))
    };
    let sum = |multiple: f64| -> f64 {
        reduced(multiple).zip(weights).map(|(share, weight)| share * weight).sum()
    };
    let mut multiple = [0.0, 0.0];
    if sum(0.0) > budget {
        let least = weights.iter().copied().filter(|weight| *weight > 0.0).fold(1.0, f64::min);
        multiple[1] = shares.iter().copied().fold(0.0, f64::max) / least;
        for _ in 0..BISECTIONS {
            let middle = (multiple[0] + multiple[1]) / 2.0;
            multiple[usize::from(sum(middle) <= budget)] = middle;
        }
    }
    let nearest: Vec<f64> = reduced(multiple[1]).collect();
    shares.copy_from_slice(&nearest);
}

/// As many as change anything in a number of 53 bits.
const BISECTIONS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::SearchedGates;
    use copriv_ir::{Architecture, Gates, Network};
    use proptest::prelude::*;

    fn costs(gates: SearchedGates) -> GateCosts {
        let network = Network::new(Architecture::MobileNetV2, 1.0, 100, 32).expect("a usual size");
        GateCosts::new(&network, gates, &Gates::all_kept(19))
    }

    fn limits(gates: usize) -> Limits {
        Limits { gates, ..Limits::NONE }
    }

    const ALL: [bool; 19] = [true; 19];

    fn count(kept: &[bool]) -> usize {
        kept.iter().filter(|&&kept| kept).count()
    }

    #[test]
    fn the_largest_alphas_stay() {
        let alphas: Vec<f32> = (0..19).map(|gate| gate as f32 / 19.0).collect();
        for (gates, searched) in [(SearchedGates::Blocks, 17), (SearchedGates::All, 19)] {
            for budget in [0, 5, 9, searched] {
                let kept = select(&costs(gates), &alphas, &ALL, &limits(budget));
                assert_eq!(count(&kept), budget + 19 - searched);
            }
        }
        let kept = select(&costs(SearchedGates::Blocks), &alphas, &ALL, &limits(5));
        let mask: String = kept.iter().map(|&kept| if kept { '1' } else { '0' }).collect();
        assert_eq!(mask, "1000000000000111111");
    }

    #[test]
    fn what_is_gone_stays_gone_and_costs_nothing() {
        let network = Network::new(Architecture::MobileNetV2, 1.0, 100, 32).expect("a usual size");
        let found: Vec<bool> = (0..19).map(|gate| gate % 2 == 0).collect();
        let gates = Gates::keeping(found.clone());
        let costs = GateCosts::new(&network, SearchedGates::Blocks, &gates);
        assert_eq!(select(&costs, &[1.0; 19], &found, &Limits::NONE), found);
        let half = select(&costs, &[1.0; 19], &found, &limits(4));
        assert_eq!(count(&half), 6, "four of eight blocks, stem and head");
        assert!(half.iter().zip(&found).all(|(kept, found)| *found || !kept));
        assert_eq!(costs.first_alphas(|_| 0.5)[..3], [1.0, 0.0, 0.5]);
        assert_eq!(costs.loss_weights()[1], 0.0);
        let fixed = (0..19).map(|gate| gate == 0 || gate == 18).collect::<Vec<_>>();
        assert_eq!(costs.smallest(), costs.bytes(&fixed).total());
    }

    #[test]
    fn alphas_begin_by_importance() {
        let costs = costs(SearchedGates::Blocks);
        let mut rises = [0.2; 19];
        (rises[0], rises[2], rises[5], rises[6], rises[18]) =
            (0.0, -0.1, 0.4, Importances::MOST, 0.0);
        let alphas = by_importance(&costs, &rises);
        assert_eq!(alphas[..7], [1.0, 0.5, 0.0, 0.5, 0.5, 1.0, 1.0]);
        assert_eq!(alphas[18], 1.0, "it may not go");
        assert_eq!(by_importance(&costs, &[0.0; 19])[1..18], [0.0; 17]);
    }

    #[test]
    fn of_equal_alphas_the_cheap_ones_stay() {
        let costs = costs(SearchedGates::Blocks);
        let kept = select(&costs, &[0.5; 19], &ALL, &limits(9));
        let savings = |state: bool| {
            let of = (1..18).filter(|&gate| kept[gate] == state).map(|gate| costs.saving(gate));
            of.collect::<Vec<_>>()
        };
        let (stay, go) = (savings(true), savings(false));
        assert!(stay.iter().all(|stay| go.iter().all(|go| stay <= go)));
    }

    #[test]
    fn a_removed_gate_comes_back_with_a_lead() {
        let costs = costs(SearchedGates::Blocks);
        let mut alphas = [0.5; 19];
        let first = select(&costs, &alphas, &ALL, &limits(9));
        let [stays, goes] = [true, false]
            .map(|state| (1..18).find(|&gate| first[gate] == state).expect("some of both"));
        for (lead, changes) in [(0.0, false), (0.09, false), (0.11, true)] {
            alphas[goes] = 0.5 + lead;
            let next = select(&costs, &alphas, &first, &limits(9));
            assert_eq!((next != first, next[goes]), (changes, changes), "{lead}");
            assert_eq!(count(&next), 9 + 2);
        }
        // One that has fallen far enough makes room for any.
        (alphas[stays], alphas[goes]) = (0.3, 0.5);
        let next = select(&costs, &alphas, &first, &limits(9));
        assert!(!next[stays] && count(&next) == 9 + 2);
    }

    #[test]
    fn alphas_compete_for_the_gates_that_may_stay() {
        let costs = costs(SearchedGates::Blocks);
        let mut alphas = [1.0; 19];
        project(&costs, &mut alphas, &limits(9));
        assert_eq!((alphas[0], alphas[18]), (1.0, 1.0), "they may not go");
        assert!(alphas[1..18].iter().all(|alpha| (alpha - 9.0 / 17.0).abs() < 1e-6));
        // What one gains the others lose, alike.
        alphas[5] += 0.16;
        project(&costs, &mut alphas, &limits(9));
        assert!((alphas[5] - (9.0 / 17.0 + 0.15)).abs() < 2e-3, "{alphas:?}");
        assert!((alphas[1..18].iter().sum::<f32>() - 9.0).abs() < 1e-5);
        // Under a limit of bytes the expensive ones lose more.
        let mut alphas = [1.0; 19];
        let bytes = costs.smallest() + 0.5 * (costs.bytes(&[true; 19]).total() - costs.smallest());
        project(&costs, &mut alphas, &Limits { bytes, ..Limits::NONE });
        for (a, b) in (1..18).flat_map(|a| (1..18).map(move |b| (a, b))) {
            assert!(costs.saving(a) <= costs.saving(b) || alphas[a] <= alphas[b], "{alphas:?}");
        }
        assert!(alphas[1..18].iter().any(|alpha| (0.01..0.99).contains(alpha)), "{alphas:?}");
        let mut alphas = [1.0; 19];
        project(&costs, &mut alphas, &limits(0));
        assert_eq!(alphas[1..18], [0.0; 17]);
    }

    proptest! {
        #[test]
        fn projected_alphas_are_the_nearest_within_the_limits(
            alphas in proptest::collection::vec(-0.5f32..1.5, 19),
            others in proptest::collection::vec(0.0f32..1.0, 19),
            share in 0.0f64..1.0,
            gates in 0usize..=17,
            by_bytes: bool,
        ) {
            let costs = costs(SearchedGates::Blocks);
            let largest = costs.bytes(&[true; 19]).total();
            let bytes = costs.smallest() + share * (largest - costs.smallest());
            let limits = if by_bytes { Limits { bytes, ..Limits::NONE } } else { limits(gates) };
            // How much of the limit alphas take: 1 is all of it.
            let used = |alphas: &[f32]| {
                let take = |gate: usize| if by_bytes { costs.saving(gate) } else { 1.0 };
                let taken: f64 = (1..18).map(|gate| f64::from(alphas[gate]) * take(gate)).sum();
                taken / if by_bytes { bytes - costs.smallest() } else { gates as f64 }.max(1e-3)
            };
            let distance = |to: &[f32]| -> f64 {
                (1..18).map(|gate| f64::from(alphas[gate] - to[gate]).powi(2)).sum()
            };
            let mut nearest = alphas.clone();
            project(&costs, &mut nearest, &limits);
            prop_assert!(nearest[1..18].iter().all(|alpha| (0.0..=1.0).contains(alpha)));
            prop_assert!(used(&nearest) <= 1.0 + 1e-5, "{}", used(&nearest));
            // No others are nearer: none at random, none on the way there.
            for part in [1.0f32, 0.1, 0.01] {
                let pairs = nearest.iter().zip(&others);
                let other: Vec<f32> = pairs.map(|(a, b)| a + part * (b - a)).collect();
                if used(&other) <= 1.0 {
                    prop_assert!(distance(&nearest) <= distance(&other) + 1e-4);
                }
            }
            let mut again = nearest.clone();
            project(&costs, &mut again, &limits);
            prop_assert!(again.iter().zip(&nearest).all(|(a, b)| (a - b).abs() < 1e-5));
        }

        #[test]
        fn all_limits_hold_and_nothing_more_would_fit(
            alphas in proptest::collection::vec(0.0f32..1.0, 19),
            share in 0.0f64..1.0,
            gates in 0usize..=17,
            threshold in 0.0f32..0.9,
        ) {
            let costs = costs(SearchedGates::Blocks);
            let largest = costs.bytes(&[true; 19]).total();
            let bytes = costs.smallest() + share * (largest - costs.smallest());
            let limits = Limits { gates, bytes, threshold, ..Limits::NONE };
            let kept = select(&costs, &alphas, &ALL, &limits);
            let total = costs.bytes(&kept).total();
            prop_assert!(kept[0] && kept[18] && count(&kept) <= gates + 2);
            prop_assert!(total <= bytes * (1.0 + 1e-9), "{} of {}", total, bytes);
            for gate in 1..18 {
                if kept[gate] {
                    prop_assert!(alphas[gate] >= threshold);
                } else {
                    let fits = total + costs.saving(gate) <= bytes * (1.0 - 1e-9);
                    prop_assert!(!fits || count(&kept) == gates + 2 || alphas[gate] < threshold);
                }
            }
        }
    }
}
