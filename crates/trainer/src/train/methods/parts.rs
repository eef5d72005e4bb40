//! Activations chosen in part: what is chosen among, and what of it is left.

use crate::model::{Masks, PartWeights};
use copriv_ir::{Activated, Condition, Granularity, Network, NodeId, Op, Shape};
use std::collections::BTreeMap;

/// Which channels or values of each activation stay, by node.
pub(in crate::train) type Choice = BTreeMap<NodeId, Vec<bool>>;

/// The activations of a network that has a gate for each.
pub(in crate::train) struct PartSpace {
    granularity: Granularity,
    layers: BTreeMap<NodeId, Layer>,
}

struct Layer {
    name: String,
    gate: usize,
    shape: Shape,
}

impl PartSpace {
    /// Those activations of `network` that `is_there` says of, by their node and gate.
    pub(in crate::train) fn new(
        network: &Network,
        granularity: Granularity,
        is_there: impl Fn(NodeId, usize) -> bool,
    ) -> Self {
        let graph = network.graph();
        let layer = |(id, node): (usize, &copriv_ir::Node)| match node.op {
            Op::Activation(Condition::Kept(gate)) if is_there(NodeId(id), gate.0) => {
                let (name, shape) = (node.name.clone(), node.shape);
                Some((NodeId(id), Layer { name, gate: gate.0, shape }))
            }
            _ => None,
        };
        let layers = graph.nodes().iter().enumerate().filter_map(layer).collect();
        Self { granularity, layers }
    }

    /// The same number for every channel or value, of each activation 0 to 1: `masks` say where it is 0 to begin with.
    pub(in crate::train) fn filled(&self, value: f32, masks: &Masks) -> PartWeights {
        let fill = |(&id, layer): (&NodeId, &Layer)| {
            let mut weights = vec![value; self.granularity.bits(layer.shape)];
            if let Some(mask) = masks.get(&layer.name) {
                let on: Vec<bool> = mask.values().collect();
                let area = self.values_of_each(layer);
                for (weight, on) in weights.iter_mut().zip(on.chunks(area)) {
                    *weight = if on.contains(&true) { value } else { 0.0 };
                }
            }
            (id, weights)
        };
        self.layers.iter().map(fill).collect()
    }

    /// Activated values behind each of a layer's alphas.
    fn values_of_each(&self, layer: &Layer) -> usize {
        match self.granularity {
            Granularity::Channel => layer.shape.area(),
            Granularity::Pixel => 1,
        }
    }

    /// The node, its gate, the values of its map, and the values behind each of its alphas.
    pub(in crate::train) fn layers(
        &self,
    ) -> impl Iterator<Item = (NodeId, usize, usize, usize)> + '_ {
        self.layers.iter().map(|(&id, layer)| {
            (id, layer.gate, layer.shape.elements(), self.values_of_each(layer))
        })
    }

    /// Activated values behind each alpha of a node.
    pub(in crate::train) fn cost(&self, node: NodeId) -> u64 {
        self.layers.get(&node).map_or(0, |layer| self.values_of_each(layer)) as u64
    }

    /// All activated values in question.
    pub(in crate::train) fn all(&self) -> u64 {
        self.layers.values().map(|layer| layer.shape.elements() as u64).sum()
    }

    /// Activated values of a choice.
    pub(in crate::train) fn count(&self, choice: &Choice) -> u64 {
        let ones = |bits: &[bool]| bits.iter().filter(|bit| **bit).count() as u64;
        choice.iter().map(|(&node, bits)| ones(bits) * self.cost(node)).sum()
    }

    /// Sums over the images of each value as means over the images and the values behind each alpha, for each node divided
    /// by the largest.
    pub(in crate::train) fn normalised(&self, sums: &BTreeMap<usize, Vec<f64>>) -> PartWeights {
        let weights = |(&id, layer): (&NodeId, &Layer)| {
            let area = self.values_of_each(layer);
            let zeros = vec![0.0; layer.shape.elements()];
            let sums = sums.get(&id.0).unwrap_or(&zeros);
            let list: Vec<f64> = sums.chunks(area).map(|part| part.iter().sum()).collect();
            let largest = list.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            (id, list.into_iter().map(|sum| (sum / largest) as f32).collect())
        };
        self.layers.iter().map(weights).collect()
    }

    /// The mean alpha of each gate; 1 for those that are not in question and stay.
    pub(in crate::train) fn means(&self, weights: &PartWeights, kept: &[bool]) -> Vec<f32> {
        let mut means: Vec<f32> = kept.iter().map(|&kept| f32::from(u8::from(kept))).collect();
        for (id, layer) in &self.layers {
            let list = weights.get(id).map_or(&[][..], Vec::as_slice);
            let sum: f64 = list.iter().copied().map(f64::from).sum();
            if let Some(mean) = means.get_mut(layer.gate) {
                *mean = (sum / list.len().max(1) as f64) as f32;
            }
        }
        means
    }

    /// The gates and masks of a choice: a gate of which nothing is left is removed, one of which all is left has no
    /// mask. Gates that are not in question stay as in `kept`.
    pub(in crate::train) fn masks(&self, choice: &Choice, kept: &[bool]) -> (Vec<bool>, Masks) {
        let (mut kept, mut masks) = (kept.to_vec(), Masks::new());
        for (id, layer) in &self.layers {
            let bits = choice.get(id).cloned().unwrap_or_default();
            let activated = Activated::of_bits(layer.shape, self.granularity, bits);
            let is_left = !matches!(activated, Ok(Activated::None) | Err(_));
            if let Ok(Activated::Part(mask)) = activated {
                masks.insert(layer.name.clone(), mask);
            }
            if let Some(kept) = kept.get_mut(layer.gate) {
                *kept = is_left;
            }
        }
        (kept, masks)
    }
}

#[cfg(test)]
impl PartSpace {
    /// All activations of a narrow ResNet-20 for small images.
    pub(super) fn small(granularity: Granularity) -> Self {
        let network = Network::new(copriv_ir::Architecture::ResNet20, 0.25, 3, 16).expect("small");
        Self::new(&network.with_layer_gates(true), granularity, |_, _| true)
    }
}

/// A choice as weights of 0 and 1.
pub(in crate::train) fn hard(choice: &Choice) -> PartWeights {
    let weights = |bits: &[bool]| bits.iter().map(|&bit| f32::from(u8::from(bit))).collect();
    choice.iter().map(|(&node, bits)| (node, weights(bits))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use copriv_ir::Architecture;

    fn space(granularity: Granularity) -> (PartSpace, Vec<bool>) {
        let network = Network::new(Architecture::ResNet20, 0.25, 3, 16).expect("small");
        let network = network.with_layer_gates(true);
        let mut kept = vec![true; network.graph().blocks().len()];
        kept[2] = false;
        (PartSpace::new(&network, granularity, |_, gate| kept[gate]), kept)
    }

    #[test]
    fn choices_become_gates_and_masks() {
        let (space, kept) = space(Granularity::Channel);
        // 19 activations, one of which is gone already.
        assert_eq!(space.layers().count(), 18);
        let mut choice: Choice = space
            .filled(1.0, &Masks::new())
            .into_iter()
            .map(|(node, weights)| (node, vec![true; weights.len()]))
            .collect();
        assert_eq!(space.count(&choice), space.all());
        let nodes: Vec<NodeId> = choice.keys().copied().collect();
        choice.insert(nodes[0], vec![false; 8]);
        choice.get_mut(&nodes[1]).expect("there")[3] = false;
        let (gates, masks) = space.masks(&choice, &kept);
        let gone: Vec<usize> = (0..19).filter(|&gate| !gates[gate]).collect();
        assert_eq!(gone, [0, 2]);
        assert_eq!(masks.len(), 1);
        assert_eq!(space.all() - space.count(&choice), 9 * 256);
        let means = space.means(&hard(&choice), &kept);
        assert_eq!(means[..4], [0.0, 0.875, 0.0, 1.0]);
        // What is masked already begins at nothing.
        let again = space.filled(1.0, &masks);
        assert_eq!(again[&nodes[1]].iter().sum::<f32>(), 7.0);
    }

    #[test]
    fn sums_of_values_are_weighed_by_their_layers_largest() {
        for granularity in [Granularity::Channel, Granularity::Pixel] {
            let (space, _) = space(granularity);
            let (node, _, values, of_each) = space.layers().next().expect("some");
            let sums = BTreeMap::from([(node.0, (0..values).map(|i| i as f64).collect())]);
            let weights = space.normalised(&sums);
            assert_eq!(weights[&node].len(), values / of_each);
            assert_eq!(weights[&node].last(), Some(&1.0));
            assert!(weights[&node].is_sorted());
            let others = weights.iter().filter(|(other, _)| **other != node);
            assert!(others.flat_map(|(_, list)| list).all(|weight| *weight == 0.0));
        }
    }
}
