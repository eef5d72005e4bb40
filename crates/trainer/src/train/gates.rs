//! What a network costs by the state of its gates.

use super::config::SearchedGates;
use copriv_ir::{ActivationMask, BlockInfo, Condition, Gates, Network, Op, cost::oracle};
use serde::{Deserialize, Serialize};

/// Bytes of one inference, both directions, by the literature's formulae.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EstimatedBytes {
    /// Before the input is known.
    pub offline: f64,
    /// Once it is.
    pub online: f64,
}

impl EstimatedBytes {
    /// Of both phases together.
    #[must_use]
    pub fn total(self) -> f64 {
        self.offline + self.online
    }
}

/// What keeping each gate costs, and which gates may go.
pub(super) struct GateCosts {
    before: Vec<EstimatedBytes>,
    after: Vec<EstimatedBytes>,
    found: Gates,
    searched: Vec<bool>,
    /// Activated values of an inference, with the gate and without it.
    relus: Vec<[u64; 2]>,
}

impl GateCosts {
    /// Of those `gates` that are kept in `found`, the state before a search. Others never come back.
    pub(super) fn new(network: &Network, gates: SearchedGates, found: &Gates) -> Self {
        let costs = oracle::block_costs(network);
        let bytes = |b: &oracle::Bytes| EstimatedBytes { offline: b.offline, online: b.online };
        let may_go = |block: &BlockInfo| gates != SearchedGates::Blocks || block.is_residual;
        let graph = network.graph();
        let relus = |block: &BlockInfo| {
            let mut states = [0; 2];
            for node in &graph.nodes()[block.nodes.clone()] {
                let Op::Activation(condition) = node.op else { continue };
                let whole = node.shape.elements();
                let elements =
                    found.parts().get(&node.name).map_or(whole, ActivationMask::count) as u64;
                states[0] += if matches!(condition, Condition::Removed(_)) { 0 } else { elements };
                states[1] += if matches!(condition, Condition::Kept(_)) { 0 } else { elements };
            }
            states
        };
        Self {
            before: costs.iter().map(|cost| bytes(&cost.before)).collect(),
            after: costs.iter().map(|cost| bytes(&cost.after)).collect(),
            found: found.clone(),
            searched: graph
                .blocks()
                .iter()
                .zip(found.kept())
                .map(|(b, &found)| found && may_go(b))
                .collect(),
            relus: graph.blocks().iter().map(relus).collect(),
        }
    }

    /// The gates before any search.
    pub(super) fn found(&self) -> &Gates {
        &self.found
    }

    /// The gates that stay whatever is removed.
    pub(super) fn fixed(&self) -> Vec<bool> {
        let pairs = self.found.kept().iter().zip(&self.searched);
        pairs.map(|(&found, &searched)| found && !searched).collect()
    }

    /// Whether each gate may go and is still there.
    pub(super) fn searched(&self) -> &[bool] {
        &self.searched
    }

    /// The alphas that a search begins with: `start` says those of searched gates; gates that may not go have 1, those that are
    /// not there 0.
    pub(super) fn first_alphas(&self, start: impl Fn(usize) -> f64) -> Vec<f32> {
        let fixed = self.fixed();
        let of_others = |gate: usize| f64::from(u8::from(fixed[gate]));
        let alpha = |gate| if self.searched[gate] { start(gate) } else { of_others(gate) };
        (0..fixed.len()).map(|gate| alpha(gate) as f32).collect()
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

    /// Activated values of an inference with these gates kept.
    pub(super) fn relus(&self, kept: &[bool]) -> u64 {
        let states = kept.iter().zip(&self.relus);
        states.map(|(&kept, [with, without])| if kept { with } else { without }).sum()
    }

    /// The activated values that removing the gate saves; 0 for one that may not go.
    pub(super) fn relus_saved(&self, gate: usize) -> u64 {
        let [with, without] = self.relus[gate];
        if self.searched[gate] { with.saturating_sub(without) } else { 0 }
    }

    /// Bytes of the network with all searched gates removed: no choice of gates has fewer.
    pub(super) fn smallest(&self) -> f64 {
        self.bytes(&self.fixed()).total()
    }

    /// The bytes that removing the gate saves; 0 for one that may not go.
    pub(super) fn saving(&self, gate: usize) -> f64 {
        let (before, after) = (self.before[gate], self.after[gate]);
        if self.searched[gate] { before.total() - after.total() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copriv_ir::Architecture;

    fn costs(gates: SearchedGates) -> GateCosts {
        let network = Network::new(Architecture::MobileNetV2, 1.0, 100, 32).expect("a usual size");
        GateCosts::new(&network, gates, &Gates::all_kept(19))
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
