//! Layers lose their activations, the least critical first (after DeepReDuce, arXiv 2103.01396).

use super::limits::Limits;
use crate::train::gates::GateCosts;

/// The layers whose activations stay. Those that the network misses least, for each activated value that their
/// removal saves, go one by one until the rest is within the limit.
pub(in crate::train) fn drop_layers(
    costs: &GateCosts,
    importances: &[f64],
    limits: &Limits,
) -> Vec<bool> {
    let mut kept = costs.found().kept().to_vec();
    let saved = |gate: usize| costs.relus_saved(gate);
    let mut order: Vec<usize> = (0..kept.len()).filter(|&gate| saved(gate) > 0).collect();
    let critical = |gate: usize| importances[gate] / saved(gate) as f64;
    order.sort_by(|&a, &b| critical(a).total_cmp(&critical(b)));
    let mut relus = costs.relus(&kept);
    for gate in order {
        if relus <= limits.relus {
            break;
        }
        kept[gate] = false;
        relus -= saved(gate);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::SearchedGates;
    use copriv_ir::{Architecture, Gates, Network};
    use proptest::prelude::*;

    fn costs(architecture: Architecture) -> GateCosts {
        let network = Network::new(architecture, 1.0, 100, 32).expect("a usual size");
        let network = network.with_layer_gates(true);
        let found = Gates::all_kept(network.graph().blocks().len());
        GateCosts::new(&network, SearchedGates::Layers, &found)
    }

    #[test]
    fn every_activation_of_a_network_is_a_layer() {
        // Stem, expand and depthwise (the first block has no expand), head; and stem, two a block.
        for (architecture, layers) in
            [(Architecture::MobileNetV2, 35), (Architecture::ResNet18, 17)]
        {
            let costs = costs(architecture);
            let count = costs.searched().len();
            assert_eq!(count, layers);
            assert_eq!(costs.relus(&vec![false; count]), 0);
            let saved: u64 = (0..count).map(|gate| costs.relus_saved(gate)).sum();
            assert_eq!(costs.relus(&vec![true; count]), saved);
        }
        // CIFAR ResNet-18 is known to have 557 thousand ReLUs.
        assert_eq!(costs(Architecture::ResNet18).relus(&[true; 17]), 557_056);
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_the_last_layer_had_to_go(
            importances in proptest::collection::vec(-0.1f64..3.0, 17),
            share in 0.0f64..1.0,
        ) {
            let costs = costs(Architecture::ResNet18);
            let relus = (557_056.0 * share) as u64;
            let kept = drop_layers(&costs, &importances, &Limits { relus, ..Limits::NONE });
            prop_assert!(costs.relus(&kept) <= relus);
            let critical = |gate: &usize| importances[*gate] / costs.relus_saved(*gate) as f64;
            let gone = (0..17).filter(|&gate| !kept[gate]);
            let last = gone.max_by(|a, b| critical(a).total_cmp(&critical(b)));
            if let Some(last) = last {
                prop_assert!(costs.relus(&kept) + costs.relus_saved(last) > relus);
                prop_assert!((0..17).filter(|&gate| kept[gate]).all(|gate| critical(&gate) >= critical(&last)));
            }
        }
    }
}
