//! Which gates a search keeps, and what the network then costs.

use super::config::SearchedGates;
use copriv_ir::{BlockInfo, Network, cost::oracle};
use serde::{Deserialize, Serialize};

/// Bytes of one inference, both directions, by the literature's formulae.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EstimatedBytes {
    /// Before the input is known.
    pub offline: f64,
    /// Once it is.
    pub online: f64,
}

/// What keeping each gate costs, and which gates may go.
pub(super) struct GateCosts {
    before: Vec<EstimatedBytes>,
    after: Vec<EstimatedBytes>,
    searched: Vec<bool>,
}

impl GateCosts {
    pub(super) fn new(network: &Network, gates: SearchedGates) -> Self {
        let costs = oracle::block_costs(network);
        let bytes = |b: &oracle::Bytes| EstimatedBytes { offline: b.offline, online: b.online };
        let may_go = |block: &BlockInfo| gates == SearchedGates::All || block.is_residual;
        Self {
            before: costs.iter().map(|cost| bytes(&cost.before)).collect(),
            after: costs.iter().map(|cost| bytes(&cost.after)).collect(),
            searched: network.graph().blocks().iter().map(may_go).collect(),
        }
    }

    /// Whether each gate may go.
    pub(super) fn searched(&self) -> &[bool] {
        &self.searched
    }

    /// The alphas that a search begins with; gates that may not go have 1.
    pub(super) fn first_alphas(&self, start: f64) -> Vec<f32> {
        self.searched.iter().map(|&searched| if searched { start as f32 } else { 1.0 }).collect()
    }

    /// Bytes of the network with these gates kept.
    pub(super) fn bytes(&self, kept: &[bool]) -> EstimatedBytes {
        let states = kept.iter().zip(self.before.iter().zip(&self.after));
        states.fold(EstimatedBytes::default(), |sum, (&kept, (before, after))| {
            let state = if kept { before } else { after };
            EstimatedBytes {
                offline: sum.offline + state.offline,
                online: sum.online + state.online,
            }
        })
    }

    /// Weight of each alpha in the communication loss: the bytes that removing the gate saves, as a
    /// share of the bytes that all searched gates move.
    pub(super) fn loss_weights(&self) -> Vec<f32> {
        let savings: Vec<f64> = (0..self.before.len()).map(|gate| self.saving(gate)).collect();
        let total: f64 = savings.iter().map(|saving| saving.abs()).sum();
        savings.into_iter().map(|saving| (saving / total.max(1.0)) as f32).collect()
    }

    /// The gates to keep: those that may not go, and the fraction `budget` of the others with the
    /// largest alphas. Of equal alphas, those whose removal saves least stay.
    pub(super) fn select(&self, alphas: &[f32], budget: f64) -> Vec<bool> {
        let mut order: Vec<usize> = (0..alphas.len()).filter(|&gate| self.searched[gate]).collect();
        let keep = (budget * order.len() as f64).round() as usize;
        order.sort_by(|&a, &b| {
            let by_saving = || self.saving(a).total_cmp(&self.saving(b));
            alphas[b].total_cmp(&alphas[a]).then_with(by_saving)
        });
        let mut kept: Vec<bool> = self.searched.iter().map(|searched| !searched).collect();
        order.into_iter().take(keep).for_each(|gate| kept[gate] = true);
        kept
    }

    fn saving(&self, gate: usize) -> f64 {
        let (before, after) = (self.before[gate], self.after[gate]);
        if self.searched[gate] {
            before.offline + before.online - after.offline - after.online
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copriv_ir::Architecture;

    fn costs(gates: SearchedGates) -> GateCosts {
        let network = Network::new(Architecture::MobileNetV2, 1.0, 100, 32).expect("a usual size");
        GateCosts::new(&network, gates)
    }

    #[test]
    fn the_budget_is_a_fraction_of_the_searched_gates() {
        let alphas: Vec<f32> = (0..19).map(|gate| gate as f32 / 19.0).collect();
        for (gates, searched) in [(SearchedGates::Blocks, 17), (SearchedGates::All, 19)] {
            let costs = costs(gates);
            for budget in [0.0, 0.25, 0.5, 1.0] {
                let kept = costs.select(&alphas, budget);
                let expected = (budget * f64::from(searched)).round() as usize + 19
                    - usize::try_from(searched).expect("small");
                assert_eq!(kept.iter().filter(|&&kept| kept).count(), expected);
            }
        }
        let kept = costs(SearchedGates::Blocks).select(&alphas, 5.0 / 17.0);
        let mask: String = kept.iter().map(|&kept| if kept { '1' } else { '0' }).collect();
        assert_eq!(mask, "1000000000000111111");
    }

    #[test]
    fn of_equal_alphas_the_cheap_ones_stay() {
        let costs = costs(SearchedGates::Blocks);
        let kept = costs.select(&[0.5; 19], 0.5);
        let largest = |kept_now: bool| {
            let of = (1..18).filter(|&gate| kept[gate] == kept_now).map(|gate| costs.saving(gate));
            of.collect::<Vec<_>>()
        };
        let (stay, go) = (largest(true), largest(false));
        assert!(stay.iter().all(|stay| go.iter().all(|go| stay <= go)));
    }

    #[test]
    fn bytes_and_weights_follow_the_block_costs() {
        let costs = costs(SearchedGates::Blocks);
        let all: f32 = costs.loss_weights().iter().map(|weight| weight.abs()).sum();
        assert!((all - 1.0).abs() < 1e-5);
        assert_eq!((costs.loss_weights()[0], costs.loss_weights()[18]), (0.0, 0.0));
        let (with, mut without) = (vec![true; 19], vec![true; 19]);
        without[3] = false;
        let difference = costs.bytes(&with).offline - costs.bytes(&without).offline;
        let expected = costs.before[3].offline - costs.after[3].offline;
        assert!((difference / expected - 1.0).abs() < 1e-9);
    }
}
