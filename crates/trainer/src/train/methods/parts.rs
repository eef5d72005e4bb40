//! Activations chosen in part: what is chosen among, and what of it is left.

use crate::model::{Masks, PartTensors, PartWeights};
use burn::tensor::{Tensor, TensorData};
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
    /// Of each channel or value whether the search found it activated: others never come back.
    found: Vec<bool>,
}

impl PartSpace {
    /// Those activations of `network` that `is_there` says of, by their node and gate, as far as `found` has them activated
    /// (no more finely than by `granularity`: [`finest`]).
    pub(in crate::train) fn new(
        network: &Network,
        granularity: Granularity,
        found: &Masks,
        is_there: impl Fn(NodeId, usize) -> bool,
    ) -> Self {
        let graph = network.graph();
        let layer = |(id, node): (usize, &copriv_ir::Node)| match node.op {
            Op::Activation(Condition::Kept(gate)) if is_there(NodeId(id), gate.0) => {
                let (name, shape) = (node.name.clone(), node.shape);
                let area = shape.elements() / granularity.bits(shape);
                let found = match found.get(&name) {
                    Some(mask) => mask.values().step_by(area).collect(),
                    None => vec![true; granularity.bits(shape)],
                };
                Some((NodeId(id), Layer { name, gate: gate.0, shape, found }))
            }
            _ => None,
        };
        let layers = graph.nodes().iter().enumerate().filter_map(layer).collect();
        Self { granularity, layers }
    }

    /// Everything that there is.
    pub(in crate::train) fn found(&self) -> Choice {
        self.layers.iter().map(|(&id, layer)| (id, layer.found.clone())).collect()
    }

    /// The alphas as tensors that neither weigh nor learn where there is nothing activated.
    pub(in crate::train) fn of_found(&self, alphas: PartTensors) -> PartTensors {
        let of_found = |(node, alphas): (NodeId, Tensor<1>)| {
            let layer = self.layers.get(&node).filter(|layer| layer.found.contains(&false));
            let Some(layer) = layer else { return (node, alphas) };
            let factors = bits_as_weights(&layer.found);
            let factors = TensorData::new(factors, [layer.found.len()]);
            let factors = Tensor::<1>::from_data(factors, &alphas.device().inner());
            (node, alphas * Tensor::from_inner(factors))
        };
        alphas.into_iter().map(of_found).collect()
    }

    /// Activated values that were found in a layer.
    fn values_found(&self, layer: &Layer) -> usize {
        ones(&layer.found) * self.values_of_each(layer)
    }

    /// Activated values behind each of a layer's alphas.
    fn values_of_each(&self, layer: &Layer) -> usize {
        match self.granularity {
            Granularity::Channel => layer.shape.area(),
            Granularity::Pixel => 1,
        }
    }

    /// The node, its gate, the activated values that were found, and the values behind each of its alphas.
    pub(in crate::train) fn layers(
        &self,
    ) -> impl Iterator<Item = (NodeId, usize, usize, usize)> + '_ {
        self.layers.iter().map(|(&id, layer)| {
            (id, layer.gate, self.values_found(layer), self.values_of_each(layer))
        })
    }

    /// Activated values behind each alpha of a node.
    pub(in crate::train) fn cost(&self, node: NodeId) -> u64 {
        self.layers.get(&node).map_or(0, |layer| self.values_of_each(layer)) as u64
    }

    /// All activated values in question.
    pub(in crate::train) fn all(&self) -> u64 {
        self.layers.values().map(|layer| self.values_found(layer) as u64).sum()
    }

    /// Activated values of a choice.
    pub(in crate::train) fn count(&self, choice: &Choice) -> u64 {
        choice.iter().map(|(&node, bits)| ones(bits) as u64 * self.cost(node)).sum()
    }

    /// Sums over the images of each value as means over the images and the values behind each alpha, for each node divided
    /// by the largest.
    pub(in crate::train) fn normalised(&self, sums: &BTreeMap<usize, Vec<f64>>) -> PartWeights {
        let weights = |(&id, layer): (&NodeId, &Layer)| {
            let area = self.values_of_each(layer);
            let zeros = vec![0.0; layer.shape.elements()];
            let sums = sums.get(&id.0).unwrap_or(&zeros);
            let sums = sums.chunks(area).zip(&layer.found);
            let of_found =
                |(part, &found): (&[f64], _)| if found { part.iter().sum() } else { 0.0 };
            let list: Vec<f64> = sums.map(of_found).collect();
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
        Self::new(&network.with_layer_gates(true), granularity, &Masks::new(), |_, _| true)
    }
}

/// A choice as weights of 0 and 1.
pub(in crate::train) fn hard(choice: &Choice) -> PartWeights {
    choice.iter().map(|(&node, bits)| (node, bits_as_weights(bits))).collect()
}

/// The finest of these masks' granularities: a search by anything coarser would bring single values back.
pub(in crate::train) fn finest(masks: &Masks) -> Granularity {
    let by_pixel = masks.values().any(|mask| mask.granularity() == Granularity::Pixel);
    if by_pixel { Granularity::Pixel } else { Granularity::Channel }
}

fn bits_as_weights(bits: &[bool]) -> Vec<f32> {
    bits.iter().map(|&bit| f32::from(u8::from(bit))).collect()
}

fn ones(bits: &[bool]) -> usize {
    bits.iter().filter(|bit| **bit).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use copriv_ir::Architecture;

    fn network() -> (Network, Vec<bool>) {
        let network = Network::new(Architecture::ResNet20, 0.25, 3, 16).expect("small");
        let network = network.with_layer_gates(true);
        let mut kept = vec![true; network.graph().blocks().len()];
        kept[2] = false;
        (network, kept)
    }

    fn space(granularity: Granularity) -> (PartSpace, Vec<bool>) {
        let (network, kept) = network();
        (PartSpace::new(&network, granularity, &Masks::new(), |_, gate| kept[gate]), kept)
    }

    #[test]
    fn choices_become_gates_and_masks() {
        let (space, kept) = space(Granularity::Channel);
        // 19 activations, one of which is gone already.
        assert_eq!(space.layers().count(), 18);
        let mut choice = space.found();
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
        // What another search has taken away is no longer there.
        let (network, _) = network();
        let again = PartSpace::new(&network, Granularity::Channel, &masks, |_, gate| gates[gate]);
        choice.remove(&nodes[0]);
        assert_eq!(again.found(), choice);
        assert_eq!(again.all(), space.count(&choice));
        let values: Vec<usize> = again.layers().map(|(_, _, values, _)| values).collect();
        assert_eq!(values[..2], [7 * 256, 8 * 256]);
        let by_pixel = PartSpace::new(&network, Granularity::Pixel, &masks, |_, gate| gates[gate]);
        assert_eq!(by_pixel.all(), again.all());
        assert_eq!(by_pixel.masks(&by_pixel.found(), &gates), (gates.clone(), masks.clone()));
        assert_eq!(finest(&masks), Granularity::Channel);
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
