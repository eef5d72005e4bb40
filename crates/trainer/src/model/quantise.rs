//! Rounding as the compiler rounds ([`copriv_ir::fixed_point`]), in the forward pass of training alone: gradients go straight
//! through.
//!
//! The weights of each convolution are rounded with its batch norm folded in (by the running statistics), those of the fully
//! connected layer as they are after a pooling sum, and what a layer with weights gives, as the image, in the format that
//! it shares with the values it is activated to and added to. What follows from those by activations, sums and pooling is
//! then on the same grid.
//!
//! A stretch that becomes one convolution ([`oracle::merged_stretches`]) has no values inside: those are left alone, and so are the weights
//! of its convolutions. Added to its output is what rounding the weights of the one convolution does to it; no gradient goes through that.
//!
//! What lies between two values goes to either by chance, as between two parties: a network that is measured with values rounded to
//! the nearest seems better than it is as a plan of few bits.
//!
//! Otherwise than here, the compiler rounds biases, far finer than values; and where two convolutions are added it may round their
//! sum once.

use super::layer::{Layer, Norm};
use super::merge::merged_weight;
use super::{Model, values};
use crate::ops::{self, Chances, plus_constant, untracked};
use burn::tensor::{Tensor, TensorData};
use copriv_ir::cost::oracle::{self, MergedStretch};
use copriv_ir::fixed_point::{FormatGroups, Origin, mean_bits, mean_correction, weight_scale};
use copriv_ir::{ConvGeometry, Gates, Graph, Network, Node, Op, Widths};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The node that gives the image. The client rounds that, to the nearest.
const IMAGE: usize = 0;

/// The largest magnitude of each node's output, by the node's number.
pub(crate) type Ranges = BTreeMap<usize, f32>;

/// What rounding makes of a network as it is now.
#[derive(Debug)]
pub(crate) struct Quantiser {
    /// By which seed values go to either of the two around them, so that nothing is lost on average; to the nearest without one.
    chance: Option<u64>,
    /// What is added to the weights, by the node that has them.
    weight_errors: BTreeMap<usize, Vec<f32>>,
    /// By the last node of each stretch that becomes one convolution.
    merged_errors: BTreeMap<usize, MergedError>,
    /// Fractional bits of the values that are rounded, by the node that gives them.
    scales: BTreeMap<usize, u32>,
}

/// What rounding does to the weights of the one convolution that a stretch becomes.
#[derive(Debug)]
struct MergedError {
    geometry: ConvGeometry,
    /// The node that the stretch reads.
    source: usize,
    /// What is added to each weight.
    weight: Vec<f32>,
}

impl Quantiser {
    /// That of `model` with these gates, whose values are as large as `ranges` says.
    pub(crate) fn new(
        model: &Model,
        gates: &Gates,
        (ranges, widths): (&Ranges, &Widths),
        chance: Option<u64>,
    ) -> Self {
        let nodes = model.graph.nodes();
        let merged = oracle::merged_stretches(&model.network, gates);
        let is_merged = |id: usize| merged.iter().any(|stretch| stretch.nodes.contains(&id));
        let layers = layer_names(&model.graph, &merged);
        let layer = |id: usize| layers[id].unwrap_or_default();
        let (mut weight_errors, mut scales_of_weights) = (BTreeMap::new(), BTreeMap::new());
        for id in (0..nodes.len()).filter(|&id| !is_merged(id)) {
            let Some(weights) = Weights::of(model, id) else { continue };
            let (scale, errors) = weights.rounded(widths.weight(layer(weights.output)));
            weight_errors.insert(id, errors);
            scales_of_weights.insert(weights.output, scale);
        }
        let mut merged_errors = BTreeMap::new();
        for MergedStretch { nodes: stretch, geometry, name } in &merged {
            let Some(weight) = merged_weight(model, stretch.clone()) else { continue };
            let (output, source) = (stretch.end - 1, nodes[stretch.start].inputs[0].0);
            let weights = Weights::plain(values(weight), 1.0, output);
            let (scale, weight) = weights.rounded(widths.weight(name));
            merged_errors.insert(output, MergedError { geometry: *geometry, source, weight });
            scales_of_weights.insert(output, scale);
        }
        let origins = origins(&model.graph, &merged);
        let last = nodes.len() - 1;
        let is_rounded = |id: &usize| match origins[*id] {
            Origin::Product { .. } => *id != last,
            _ => nodes[*id].op == Op::Input,
        };
        let rounded: Vec<usize> = (0..nodes.len()).filter(is_rounded).collect();
        let largest: Vec<f32> =
            (0..nodes.len()).map(|id| ranges.get(&id).copied().unwrap_or_default()).collect();
        let weight_scale = |id| scales_of_weights.get(&id).copied();
        let bits = |group| widths.activation(layer(group));
        let scales = FormatGroups::new(origins).scales(&largest, bits, weight_scale);
        let scales = rounded.into_iter().map(|id| (id, scales[id])).collect();
        Self { chance, weight_errors, merged_errors, scales }
    }

    /// Lets chance decide anew: for the next batch.
    pub(crate) fn draw_anew(&mut self) {
        self.chance = self.chance.map(|seed| seed.wrapping_add(1 << 32));
    }

    /// The weight of node `id`, rounded.
    pub(super) fn weight<const D: usize>(&self, id: usize, weight: Tensor<D>) -> Tensor<D> {
        let Some(errors) = self.weight_errors.get(&id) else { return weight };
        let data = TensorData::new(errors.clone(), weight.dims());
        let errors = Tensor::from_data(data, &untracked(weight.clone()).device());
        plus_constant(weight, errors)
    }

    /// The node whose output [`Self::merged`] needs for that of node `id`, if any.
    pub(super) fn source(&self, id: usize) -> Option<usize> {
        self.merged_errors.get(&id).map(|error| error.source)
    }

    /// Whether such a node's output is to be at hand for later.
    pub(super) fn is_source(&self, id: usize) -> bool {
        self.merged_errors.values().any(|error| error.source == id)
    }

    /// The output `y` of node `id`, the last of a stretch that is one convolution of `x`, with the weights of that one rounded.
    pub(super) fn merged(&self, id: usize, y: Tensor<4>, x: Tensor<4>) -> Tensor<4> {
        let Some(MergedError { geometry, weight, .. }) = self.merged_errors.get(&id) else {
            return y;
        };
        let x = untracked(x);
        // Merging gives dense kernels.
        let dims = [geometry.out_channels, geometry.in_channels, geometry.kernel, geometry.kernel];
        let weight = Tensor::from_data(TensorData::new(weight.clone(), dims), &x.device());
        let error = ops::convolution(x, weight, &ConvGeometry { groups: 1, ..*geometry });
        plus_constant(y, error)
    }

    /// Whether the output of node `id` is rounded.
    pub(super) fn rounds(&self, id: usize) -> bool {
        self.scales.contains_key(&id)
    }

    /// The output of node `id`, perhaps with an activation behind it: rounded, if it is to be.
    pub(super) fn value(&self, id: usize, x: Tensor<4>) -> Tensor<4> {
        let Some(&scale) = self.scales.get(&id) else { return x };
        let chances = self.chances(id, x.dims()).map(Arc::new);
        ops::onto_grid(x, f64::from(scale).exp2(), chances)
    }

    /// What decides where the output of node `id` goes, if chance does.
    fn chances(&self, id: usize, [maps, channels, height, width]: [usize; 4]) -> Option<Chances> {
        let seed = self.chance.filter(|_| id != IMAGE)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_add(id as u64));
        let mut draw = |count| (0..count).map(|_| random.random()).collect();
        Some(Chances { places: draw(height * width * channels), maps: draw(maps) })
    }
}

/// A layer that has bits of its own in `widths` but that the network with these gates does not have when it is fused.
pub(crate) fn foreign_layer<'a>(
    network: &Network,
    gates: &Gates,
    widths: &'a Widths,
) -> Option<&'a str> {
    let (graph, merged) = (network.graph(), oracle::merged_stretches(network, gates));
    let names: BTreeSet<&str> = layer_names(&graph, &merged).into_iter().flatten().collect();
    widths.foreign_layer(|name| names.contains(name))
}

/// What fusing calls the layer whose value each node gives, if it is one.
fn layer_names<'a>(graph: &'a Graph, merged: &'a [MergedStretch]) -> Vec<Option<&'a str>> {
    let nodes = graph.nodes();
    let name = |(id, node): (usize, &'a Node)| {
        if let Some(stretch) = merged.iter().find(|stretch| stretch.nodes.contains(&id)) {
            return (id + 1 == stretch.nodes.end).then_some(stretch.name.as_str());
        }
        match node.op {
            // Its value is what the batch norm after it makes of it.
            Op::Conv(_) => None,
            Op::BatchNorm => Some(nodes[node.inputs[0].0].name.as_str()),
            _ => Some(node.name.as_str()),
        }
    };
    nodes.iter().enumerate().map(name).collect()
}

/// The weights of a layer, and what fusing and compiling make of them before they are rounded.
struct Weights {
    list: Vec<f32>,
    /// By which the batch norm scales each output channel; without one 1.
    factors: Vec<f64>,
    /// Of a mean.
    correction: f64,
    /// The node that gives the layer's value.
    output: usize,
}

impl Weights {
    /// Without a batch norm.
    fn plain(list: Vec<f32>, correction: f64, output: usize) -> Self {
        Self { list, factors: vec![1.0], correction, output }
    }

    /// Those of node `id`, if it has any.
    fn of(model: &Model, id: usize) -> Option<Self> {
        let (nodes, layer) = (model.graph.nodes(), model.layers[id].as_ref()?);
        match (layer, model.layers.get(id + 1).and_then(Option::as_ref)) {
            (Layer::Conv(conv), Some(Layer::Norm(norm))) => {
                let (list, factors) = (values(conv.weight.val()), factors(norm));
                Some(Self { list, factors, correction: 1.0, output: id + 1 })
            }
            (Layer::Linear(linear), _) => {
                let input = &nodes[nodes[id].inputs[0].0];
                let correction = match input.op {
                    Op::GlobalAveragePool => mean_correction(nodes[input.inputs[0].0].shape.area()),
                    _ => 1.0,
                };
                Some(Self::plain(values(linear.weight.val()), correction, id))
            }
            _ => None,
        }
    }

    /// Fractional bits at which they have `bits` bits, and what rounding to these adds to each; nothing to a channel that
    /// is scaled to nothing.
    fn rounded(&self, bits: u32) -> (u32, Vec<f32>) {
        let row = (self.list.len() / self.factors.len().max(1)).max(1);
        let rows = self.list.chunks(row).zip(&self.factors);
        // The fused network has them in single precision.
        let folded: Vec<(f64, f64)> = rows
            .flat_map(|(row, &factor)| {
                row.iter().map(move |&w| (f64::from((f64::from(w) * factor) as f32), factor))
            })
            .collect();
        let largest = folded.iter().fold(0.0, |max: f64, (w, _)| max.max(w.abs()));
        let scale = weight_scale(largest * self.correction, bits).unwrap_or(0);
        let unit = f64::from(scale).exp2() * self.correction;
        let error = |&(weight, factor): &(f64, f64)| {
            let error = (((weight * unit).round() / unit - weight) / factor) as f32;
            if error.is_finite() { error } else { 0.0 }
        };
        (scale, folded.iter().map(error).collect())
    }
}

/// By how much a batch norm scales each channel.
pub(super) fn factors(norm: &Norm) -> Vec<f64> {
    let factor = |(weight, variance): (f32, f32)| {
        f64::from(weight) / (f64::from(variance) + f64::from(Graph::BATCH_NORM_EPSILON)).sqrt()
    };
    let variances = values(norm.running_var.value_sync());
    values(norm.weight.val()).into_iter().zip(variances).map(factor).collect()
}

/// How the output of each node comes about, as far as its format goes, where `merged` nodes become one convolution each. Outputs
/// that are no values of the fused network have formats of their own that nothing depends on.
fn origins(graph: &Graph, merged: &[MergedStretch]) -> Vec<Origin> {
    let nodes = graph.nodes();
    let product = |id: usize| {
        let factor = nodes[id].inputs[0].0;
        match nodes[factor].op {
            Op::GlobalAveragePool => {
                let factor = nodes[factor].inputs[0].0;
                Origin::Product { factor, pooled: mean_bits(nodes[factor].shape.area()) }
            }
            _ => Origin::Product { factor, pooled: 0 },
        }
    };
    let origin = |(id, node): (usize, &Node)| {
        let mut stretches = merged.iter().map(|stretch| &stretch.nodes);
        if let Some(stretch) = stretches.find(|nodes| nodes.contains(&id)) {
            return if id + 1 == stretch.end { product(stretch.start) } else { Origin::Own };
        }
        match node.op {
            Op::Input | Op::Conv(_) | Op::GlobalAveragePool => Origin::Own,
            Op::BatchNorm => product(node.inputs[0].0),
            Op::Linear { .. } => product(id),
            Op::Activation(_) | Op::Add | Op::MaxPool { .. } => {
                Origin::Alike(node.inputs.iter().map(|input| input.0).collect())
            }
        }
    };
    nodes.iter().enumerate().map(origin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use copriv_ir::{Architecture, BatchNormInit, Checkpoint, Network};

    impl Quantiser {
        fn of_scales(scales: BTreeMap<usize, u32>) -> Self {
            let (weight_errors, merged_errors) = (BTreeMap::new(), BTreeMap::new());
            Self { chance: None, weight_errors, merged_errors, scales }
        }
    }

    #[test]
    fn folded_weights_are_multiples_of_a_power_of_two_and_gradients_go_through() {
        let device = Device::flex().autodiff();
        let list: Vec<f32> = (0..36).map(|i| (i as f32 * 0.7).sin()).collect();
        let factors = vec![0.5, 1.9];
        let weights = Weights { list: list.clone(), factors, correction: 1.0, output: 0 };
        let (scale, errors) = weights.rounded(4);
        // Folded weights up to 1.88 in four bits of two's complement, which end at 7: halves, to half of one.
        assert_eq!(scale, 1);
        let weight_errors = [(3, errors)].into();
        let quantiser = Quantiser { weight_errors, ..Quantiser::of_scales([].into()) };
        let weight = Tensor::<4>::from_data(TensorData::new(list.clone(), [2, 2, 3, 3]), &device);
        let weight = weight.require_grad();
        let rounded = quantiser.weight(3, weight.clone());
        for (i, (rounded, weight)) in values(rounded.clone()).iter().zip(&list).enumerate() {
            let factor = [0.5, 1.9][i / 18];
            let steps = rounded * factor * 2.0;
            assert!((steps - steps.round()).abs() < 1e-4, "{steps}");
            assert!((rounded - weight).abs() * factor <= 0.25 + 1e-5);
        }
        let gradients = (rounded * 3.0).sum().backward();
        let gradient = values(weight.grad(&gradients).expect("a leaf"));
        assert!(gradient.iter().all(|&gradient| gradient == 3.0));
        assert_eq!(values(quantiser.weight(4, weight)), list);

        let nothing = Weights { factors: vec![0.0, 0.0], ..weights };
        assert_eq!(nothing.rounded(4).1, [0.0; 36]);
    }

    #[test]
    fn weights_after_a_mean_are_rounded_with_its_correction() {
        let correction = mean_correction(9);
        let weights = Weights { list: vec![0.5, -0.3], factors: vec![1.0], correction, output: 0 };
        // 16 / 9 times as large: 0.889 and -0.533 in eighths.
        let (scale, errors) = weights.rounded(4);
        assert_eq!(scale, 3);
        let found = [0.5 + errors[0], -0.3 + errors[1]];
        for (found, expected) in found.into_iter().zip([7.0f32, -4.0]) {
            assert!((found - expected / 8.0 * 9.0 / 16.0).abs() < 1e-6, "{found}");
        }
    }

    #[test]
    fn values_are_rounded_at_their_scale_and_gradients_go_through() {
        let quantiser = Quantiser::of_scales([(5, 1)].into());
        for device in [Device::flex(), Device::flex().autodiff()] {
            let x = Tensor::<1>::from_floats([3.9, 0.3, -1.2, 0.2], &device);
            let x = x.reshape([1, 1, 2, 2]);
            assert_eq!(values(quantiser.value(5, x.clone())), [4.0, 0.5, -1.0, 0.0]);
            assert_eq!(values(quantiser.value(6, x.clone())), values(x));
        }
        let x = Tensor::<4>::from_floats([[[[0.3, 0.9]]]], &Device::flex().autodiff());
        let x = x.require_grad();
        let gradients = (quantiser.value(5, x.clone()) * 2.0).sum().backward();
        assert_eq!(values(x.grad(&gradients).expect("a leaf")), [2.0, 2.0]);
    }

    #[test]
    fn chance_takes_nothing_away_on_average_and_images_are_left_to_the_client() {
        let scales = BTreeMap::from([(IMAGE, 1), (5, 1)]);
        let quantiser = Quantiser { chance: Some(9), ..Quantiser::of_scales(scales) };
        let x = Tensor::<4>::full([32, 4, 16, 16], 1.15, &Device::flex());
        assert!(values(quantiser.value(IMAGE, x.clone())).iter().all(|&x| x == 1.0));
        let rounded = values(quantiser.value(5, x.clone()));
        assert!(rounded.iter().all(|x| [1.0, 1.5].contains(x)));
        let mean = |list: &[f32]| list.iter().sum::<f32>() / list.len() as f32;
        assert!((mean(&rounded) - 1.15).abs() < 0.02, "{}", mean(&rounded));
        // Also within each image, and at each place over the images.
        for image in rounded.chunks(4 * 256) {
            assert!((mean(image) - 1.15).abs() < 0.05, "{}", mean(image));
        }
        let place = |place: usize| -> Vec<f32> {
            rounded.iter().skip(place).step_by(4 * 256).copied().collect()
        };
        assert!((0..9).all(|number| (mean(&place(number)) - 1.15).abs() < 0.2));
        assert_eq!(values(quantiser.value(5, x.clone())), rounded);
        let mut other = quantiser;
        let mut seen = vec![rounded];
        for _ in 0..3 {
            other.draw_anew();
            let next = values(other.value(5, x.clone()));
            assert!(!seen.contains(&next));
            seen.push(next);
        }
    }

    /// The scales by node name, where block `features.3` is kept or removed.
    fn scales(kept: bool) -> BTreeMap<String, u32> {
        let network = Network::new(Architecture::MobileNetV2, 0.5, 10, 32).expect("usual");
        let mut mask = "1".repeat(17);
        mask.replace_range(2..3, if kept { "1" } else { "0" });
        let gates = Gates::from_mask(&network, &mask).expect("a digit a block");
        let made = Checkpoint::initialise(network, 1, BatchNormInit::Random);
        let model = Model::from_checkpoint(&made, &Device::flex());
        let nodes = model.graph.nodes().iter().enumerate();
        // The largest value is one activation's input.
        let large = |(id, node): (usize, &Node)| {
            (id, if node.name == "features.2.conv.3" { 9.0 } else { 1.5 })
        };
        let ranges = nodes.map(large).collect();
        let quantiser = Quantiser::new(&model, &gates, (&ranges, &Widths::uniform(8, 8)), None);
        let name = |(id, scale): (usize, u32)| (model.graph.nodes()[id].name.clone(), scale);
        quantiser.scales.into_iter().map(name).collect()
    }

    #[test]
    fn kept_blocks_share_formats_and_merged_ones_have_no_values_inside() {
        let of = |scales: &BTreeMap<String, u32>, prefix: &str| -> Vec<(String, u32)> {
            let inside = scales.iter().filter(|(name, _)| name.starts_with(prefix));
            inside.map(|(name, scale)| (name[prefix.len()..].to_owned(), *scale)).collect()
        };
        let named = |list: &[(&str, u32)]| -> Vec<(String, u32)> {
            list.iter().map(|(name, scale)| ((*name).to_owned(), *scale)).collect()
        };
        let kept = scales(true);
        assert_eq!(of(&kept, "input"), named(&[("", 7)]));
        // Its shortcut adds the second block's output, so both have the format of the largest.
        assert_eq!(
            of(&kept, "features.2."),
            named(&[("conv.0.1", 7), ("conv.1.1", 7), ("conv.3", 4)])
        );
        assert_eq!(
            of(&kept, "features.3."),
            named(&[("conv.0.1", 7), ("conv.1.1", 7), ("conv.3", 4)])
        );
        assert!(of(&kept, "classifier").is_empty(), "logits are what they are");
        let removed = scales(false);
        assert_eq!(of(&removed, "features.2."), of(&kept, "features.2."));
        assert_eq!(of(&removed, "features.3."), named(&[("add", 7)]));
    }
}
