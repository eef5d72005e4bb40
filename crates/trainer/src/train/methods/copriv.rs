//! The gates with the largest alphas (CoPriv, arXiv 2311.01737).

use super::limits::Limits;
use crate::train::gates::GateCosts;

/// The gates to keep: those that may not go, then in falling order of their alphas all that the limits
/// still admit. Of equal alphas, those whose removal saves least stay.
pub(in crate::train) fn select(costs: &GateCosts, alphas: &[f32], limits: &Limits) -> Vec<bool> {
    let searched = costs.searched();
    let mut order: Vec<usize> = (0..alphas.len()).filter(|&gate| searched[gate]).collect();
    order.sort_by(|&a, &b| {
        let by_saving = || costs.saving(a).total_cmp(&costs.saving(b));
        alphas[b].total_cmp(&alphas[a]).then_with(by_saving)
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

    fn count(kept: &[bool]) -> usize {
        kept.iter().filter(|&&kept| kept).count()
    }

    #[test]
    fn the_largest_alphas_stay() {
        let alphas: Vec<f32> = (0..19).map(|gate| gate as f32 / 19.0).collect();
        for (gates, searched) in [(SearchedGates::Blocks, 17), (SearchedGates::All, 19)] {
            for budget in [0, 5, 9, searched] {
                let kept = select(&costs(gates), &alphas, &limits(budget));
                assert_eq!(count(&kept), budget + 19 - searched);
            }
        }
        let kept = select(&costs(SearchedGates::Blocks), &alphas, &limits(5));
        let mask: String = kept.iter().map(|&kept| if kept { '1' } else { '0' }).collect();
        assert_eq!(mask, "1000000000000111111");
    }

    #[test]
    fn what_is_gone_stays_gone_and_costs_nothing() {
        let network = Network::new(Architecture::MobileNetV2, 1.0, 100, 32).expect("a usual size");
        let found: Vec<bool> = (0..19).map(|gate| gate % 2 == 0).collect();
        let gates = Gates::new(vec![1.0; 19], found.clone()).expect("finite");
        let costs = GateCosts::new(&network, SearchedGates::Blocks, &gates);
        assert_eq!(select(&costs, &[1.0; 19], &Limits::NONE), found);
        let half = select(&costs, &[1.0; 19], &limits(4));
        assert_eq!(count(&half), 6, "four of eight blocks, stem and head");
        assert!(half.iter().zip(&found).all(|(kept, found)| *found || !kept));
        assert_eq!(costs.first_alphas(0.5)[..3], [1.0, 0.0, 0.5]);
        assert_eq!(costs.loss_weights()[1], 0.0);
        let fixed = (0..19).map(|gate| gate == 0 || gate == 18).collect::<Vec<_>>();
        assert_eq!(costs.smallest(), costs.bytes(&fixed).total());
    }

    #[test]
    fn of_equal_alphas_the_cheap_ones_stay() {
        let costs = costs(SearchedGates::Blocks);
        let kept = select(&costs, &[0.5; 19], &limits(9));
        let savings = |state: bool| {
            let of = (1..18).filter(|&gate| kept[gate] == state).map(|gate| costs.saving(gate));
            of.collect::<Vec<_>>()
        };
        let (stay, go) = (savings(true), savings(false));
        assert!(stay.iter().all(|stay| go.iter().all(|go| stay <= go)));
    }

    proptest! {
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
            let kept = select(&costs, &alphas, &limits);
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
