//! The fused model from what was decided: weights computed, layers named and numbered.

use crate::convolution::Convolution;
use crate::decide::{Step, cheapest};
use crate::layers::{Layer, LayerOp};
use crate::merge_branches::merge_branches;
use crate::merge_convs::merge_convs;
use crate::runs::{Piece, maximal_runs};
use crate::{FuseConfig, FuseError};
use copriv_ir::{
    BlockInfo, Checkpoint, ConvGeometry, FusedLayer, FusedModel, FusedOp, LayerId, Provenance,
    Shape, Tensor,
};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The model of these layers, their runs cut as `config` counts cheapest.
pub(crate) fn assemble(
    layers: &[Layer],
    checkpoint: &Checkpoint,
    config: &FuseConfig,
) -> Result<FusedModel, FuseError> {
    let graph = checkpoint.network().graph();
    let mut assembly =
        Assembly { layers, blocks: graph.blocks(), made: vec![], merges: BTreeMap::new() };
    let mut new_id = BTreeMap::new();
    for (id, run) in maximal_runs(layers) {
        let made = match run {
            Some(run) => {
                let steps = cheapest(&run, layers, config);
                assembly.series(&steps, new_id[&run.source])
            }
            None => {
                let inputs = layers[id].inputs.iter().map(|input| new_id[input]).collect();
                assembly.as_it_is(id, inputs)
            }
        };
        new_id.insert(id, made);
    }
    let tensors = assembly.tensors()?;
    let (network, mask) = (checkpoint.network().clone(), checkpoint.gates().mask());
    let provenance = Provenance::new("fuse", Some(checkpoint.digest()), config.settings(), None);
    FusedModel::new(network, mask, assembly.made, tensors, provenance).map_err(|found| {
        FuseError::Graph { layer: "the fused model".into(), expected: "a sound one", found }
    })
}

struct Assembly<'a> {
    layers: &'a [Layer],
    blocks: &'a [BlockInfo],
    made: Vec<FusedLayer>,
    /// What each convolution of `made` is merged from, and its input's shape.
    merges: BTreeMap<usize, (Vec<Piece>, Shape)>,
}

impl Assembly<'_> {
    fn series(&mut self, steps: &[Step], source: LayerId) -> LayerId {
        steps.iter().fold(source, |input, step| match step {
            Step::Merged { pieces, geometry } => self.convolution(pieces, *geometry, input),
            Step::Sum { branches, adds } => {
                let ends: Vec<LayerId> =
                    branches.iter().map(|branch| self.series(branch, input)).collect();
                let mut sum = ends[0];
                for (&end, &add) in ends[1..].iter().zip(adds) {
                    sum = self.as_it_is(add, vec![sum, end]);
                }
                sum
            }
        })
    }

    fn convolution(&mut self, pieces: &[Piece], geometry: ConvGeometry, input: LayerId) -> LayerId {
        let input_shape = self.made[input.0].shape;
        self.merges.insert(self.made.len(), (pieces.to_vec(), input_shape));
        let ids: Vec<usize> = pieces.iter().flat_map(Piece::layers).collect();
        let last = ids.iter().copied().max().expect("a convolution comes from at least one layer");
        self.push(FusedLayer {
            name: self.name(&ids, last),
            op: FusedOp::Conv(geometry),
            inputs: vec![input],
            shape: geometry.output_shape(input_shape),
            block: self.layers[last].block,
            mask: None,
        })
    }

    fn as_it_is(&mut self, id: usize, inputs: Vec<LayerId>) -> LayerId {
        let Layer { name, op, shape, block, mask, .. } = &self.layers[id];
        let op = match op {
            LayerOp::Other(op) => *op,
            LayerOp::Conv(conv) => FusedOp::Conv(conv.geometry),
        };
        let (name, mask) = (name.clone(), mask.clone());
        self.push(FusedLayer { name, op, inputs, shape: *shape, block: *block, mask })
    }

    fn push(&mut self, layer: FusedLayer) -> LayerId {
        self.made.push(layer);
        LayerId(self.made.len() - 1)
    }

    /// A lone layer's own name; the block's where all convolutions of the last block are inside (and perhaps
    /// those of blocks before it); the last convolution's otherwise.
    fn name(&self, ids: &[usize], last: usize) -> String {
        let is_conv = |id: &usize| matches!(self.layers[*id].op, LayerOp::Conv(_));
        let block = self.layers[last].block;
        let mut convs = (0..self.layers.len()).filter(is_conv);
        let is_whole = convs.all(|id| self.layers[id].block != block || ids.contains(&id));
        let last_conv = ids.iter().copied().filter(is_conv).max().unwrap_or(last);
        match block.and_then(|block| self.blocks.get(block)) {
            Some(block) if is_whole && ids.len() > 1 => block.name.clone(),
            _ => self.layers[last_conv].name.clone(),
        }
    }

    /// Weights and bias maps of all convolutions, in single precision.
    fn tensors(&self) -> Result<BTreeMap<String, Tensor>, FuseError> {
        let pairs: Result<Vec<[(String, Tensor); 2]>, FuseError> = self
            .merges
            .par_iter()
            .map(|(&id, (pieces, input))| {
                let name = &self.made[id].name;
                let conv = merged(self.layers, pieces, *input).ok_or_else(|| FuseError::Graph {
                    layer: name.clone(),
                    expected: "convolutions that are one",
                    found: "others".into(),
                })?;
                let not_finite = || FuseError::NotFinite { layer: name.clone() };
                let (weight, bias) = conv.tensors().ok_or_else(not_finite)?;
                Ok([(format!("{name}.weight"), weight), (format!("{name}.bias"), bias)])
            })
            .collect();
        Ok(pairs?.into_iter().flatten().collect())
    }
}

/// The pieces of a series, which come on a map of shape `input`, as one convolution.
fn merged<'a>(layers: &'a [Layer], pieces: &[Piece], input: Shape) -> Option<Cow<'a, Convolution>> {
    let mut run: Option<Cow<Convolution>> = None;
    for piece in pieces {
        let at = run.as_ref().map_or(input, |run| run.geometry.output_shape(input));
        let next = match piece {
            Piece::Conv(id) => match &layers[*id].op {
                LayerOp::Conv(conv) => Cow::Borrowed(conv),
                LayerOp::Other(_) => return None,
            },
            Piece::Sum { branches, .. } => Cow::Owned(merged_sum(layers, branches, at)?),
        };
        run = Some(match run {
            None => next,
            Some(before) => Cow::Owned(merge_convs(&before, &next)?),
        });
    }
    run.or_else(|| Some(Cow::Owned(Convolution::identity(input))))
}

fn merged_sum(layers: &[Layer], branches: &[Vec<Piece>], input: Shape) -> Option<Convolution> {
    let mut branches = branches.iter().map(|branch| merged(layers, branch, input));
    let first = branches.next()??.into_owned();
    branches.try_fold(first, |sum, next| merge_branches(&sum, next?.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convolution::testing::{distance, numbers};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn conv(name: &str, geometry: ConvGeometry, input: usize, seed: u64) -> Layer {
        let shape = Shape::new(geometry.in_channels, 6, 5);
        let conv = Convolution::random(geometry, shape, &mut ChaCha8Rng::seed_from_u64(seed));
        let shape = conv.output();
        Layer {
            name: name.into(),
            op: LayerOp::Conv(conv),
            inputs: vec![input],
            shape,
            block: None,
            mask: None,
        }
    }

    fn other(name: &str, op: FusedOp, inputs: Vec<usize>) -> Layer {
        let (op, shape) = (LayerOp::Other(op), Shape::new(3, 6, 5));
        Layer { name: name.into(), op, inputs, shape, block: None, mask: None }
    }

    fn steps(layers: &[Layer]) -> Vec<Step> {
        let runs = maximal_runs(layers);
        assert_eq!(runs.keys().copied().collect::<Vec<_>>(), [0, layers.len() - 1]);
        let run = runs[&(layers.len() - 1)].as_ref().expect("linear");
        cheapest(run, layers, &FuseConfig::FEWEST)
    }

    /// RepVGG's block at training time: 3x3, 1x1 and identity side by side; here two in a row, then 1x1.
    #[test]
    fn parallel_branches_become_one_convolution() {
        let (dense, pointwise) = (ConvGeometry::same(3, 3, 3, 1), ConvGeometry::same(3, 3, 1, 1));
        let layers = [
            other("input", FusedOp::Input, vec![]),
            conv("pointwise", pointwise, 0, 1),
            conv("dense", dense, 0, 2),
            other("two", FusedOp::Add, vec![1, 2]),
            other("three", FusedOp::Add, vec![0, 3]),
            conv("after", pointwise, 4, 3),
        ];
        let steps = steps(&layers);
        let [Step::Merged { pieces, geometry }] = steps.as_slice() else {
            panic!("one convolution, not {steps:?}")
        };
        assert_eq!(*geometry, dense);
        let input = layers[0].shape;
        let found = merged(&layers, pieces, input).expect("is one");

        let apply = |id: usize, x: &[f64]| match &layers[id].op {
            LayerOp::Conv(conv) => conv.apply(x),
            LayerOp::Other(_) => panic!("a convolution"),
        };
        let image = numbers(&mut ChaCha8Rng::seed_from_u64(4), input.elements());
        let branches = [apply(1, &image), apply(2, &image), image.clone()];
        let sum: Vec<f64> = (0..image.len()).map(|i| branches.iter().map(|b| b[i]).sum()).collect();
        assert!(distance(&apply(5, &sum), &found.apply(&image)) < 1e-12);
    }

    #[test]
    fn a_branch_that_is_no_convolution_keeps_the_sum() {
        let dense = ConvGeometry::same(3, 3, 3, 1);
        let layers = [
            other("input", FusedOp::Input, vec![]),
            conv("one", dense, 0, 1),
            conv("two", dense, 1, 2),
            other("sum", FusedOp::Add, vec![2, 0]),
        ];
        let steps = steps(&layers);
        let [Step::Sum { branches, adds }] = steps.as_slice() else {
            panic!("a sum, not {steps:?}")
        };
        assert_eq!((branches[0].len(), branches[1].len(), adds.as_slice()), (2, 0, [3].as_slice()));
    }
}
