//! Fusing: a [`Checkpoint`] becomes a [`FusedModel`] that computes the same function with fewer layers.
//!
//! The whole pass is [`fuse_with`]: find the linear runs, decide what is cheaper as one convolution, merge. One
//! step a file, and its arithmetic one rule a file:
//!
//! | step | file |
//! |---|---|
//! | the network without batch norms and absent activations | `layers.rs` |
//! | maximal linear runs: series of convolutions and sums of parallel branches | `runs.rs` |
//! | what becomes one convolution: the cheapest way to cut each run | `decide.rs`, costs in `config.rs` |
//! | weights, names and numbers of the fused layers | `assemble.rs` |
//!
//! | what disappears | rule | file |
//! |---|---|---|
//! | batch norm | scales its convolution's output channels | `fold_batch_norm.rs` |
//! | a convolution after a convolution | kernels convolve, biases pass through the second kernel | `merge_convs.rs` |
//! | a branch or shortcut beside a convolution | kernels add, the identity being the centre tap | `merge_branches.rs` |
//!
//! For weights of few bits, [`equalise`] evens out the channels of a network before that (`equalise/`), without changing its function:
//! to fine-tune it for those bits, or to be fused right away ([`fuse_equalised`]).
//!
//! After CoPriv (arXiv 2311.01737), DepthShrinker (arXiv 2206.00843) and RepVGG (arXiv 2101.03697);
//! unlike theirs it is exact at the borders, because the fused convolution carries a bias map (see
//! [`copriv_ir::BorderClasses`]), and what no bias map makes exact is not merged (see
//! [`copriv_ir::ConvGeometry::then`]). All arithmetic is in `f64`; the result is stored in `f32`.

mod assemble;
mod config;
mod convolution;
mod decide;
mod equalise;
mod fold_batch_norm;
mod layers;
mod merge_branches;
mod merge_convs;
mod product;
mod runs;
mod verify;

pub use config::{Count, FuseConfig};
pub use equalise::{EqualisationReport, Fixed, LayerNoise, equalise, fuse_equalised};
pub use verify::{Verification, verify, verify_random};

use copriv_ir::{Checkpoint, FusedModel};

/// Fuses `checkpoint` into what CoPriv's protocol runs with the fewest bytes ([`FuseConfig::COPRIV`]).
///
/// # Errors
/// As [`fuse_with`].
pub fn fuse(checkpoint: &Checkpoint) -> Result<FusedModel, FuseError> {
    fuse_with(checkpoint, &FuseConfig::default())
}

/// Fuses `checkpoint`. The result depends on nothing but it and `config`.
///
/// - Batch norms fold into their convolutions; removed activations vanish; a fully connected layer
///   becomes a 1x1 convolution.
/// - Each maximal linear run of convolutions, shortcuts and parallel branches, across blocks where nothing
///   stands between them, becomes the convolutions and sums that cost least: an inverted
///   residual block whose gate is removed one dense 3x3 convolution, say. A stretch that is not
///   exactly one convolution, border included, is never merged.
///
/// Layers keep the names of the parameters they come from; a convolution that all of a block went into
/// has the name of the block.
///
/// # Errors
/// [`FuseError::NotFinite`] where the parameters of a fused layer exceed single precision;
/// [`FuseError::Graph`] for a graph that this pass does not know, which no [`copriv_ir::Network`] has.
pub fn fuse_with(checkpoint: &Checkpoint, config: &FuseConfig) -> Result<FusedModel, FuseError> {
    let layers = layers::layers(checkpoint)?;
    assemble::assemble(&layers, checkpoint, config)
}

/// Why a checkpoint cannot be fused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FuseError {
    #[error("the fused parameters of {layer} are beyond single precision")]
    NotFinite { layer: String },
    #[error("{layer}: expected {expected}, found {found}")]
    Graph { layer: String, expected: &'static str, found: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use convolution::Convolution;
    use convolution::testing::{distance, numbers};
    use copriv_ir::evaluate::reference_convolution;
    use copriv_ir::{ConvGeometry, Shape};
    use fold_batch_norm::{BatchNorm, fold_batch_norm};
    use merge_branches::merge_branches;
    use merge_convs::merge_convs;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// A convolution and the batch norm after it, as a trained block has them.
    struct ConvNorm {
        geometry: ConvGeometry,
        conv: Vec<f32>,
        norm: [Vec<f32>; 4],
    }

    impl ConvNorm {
        /// Weights of both signs; a third of the channels nearly dead, their variance down to 1e-8.
        fn random(geometry: ConvGeometry, random: &mut ChaCha8Rng) -> Self {
            let channels = geometry.out_channels;
            let mut draw = |count: usize| -> Vec<f32> {
                (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
            };
            let conv = draw(geometry.weight_elements());
            let (weight, bias, mean) = (draw(channels), draw(channels), draw(channels));
            let var = draw(channels)
                .into_iter()
                .map(|x| if x < -0.33 { 10f32.powf(8.0 * x) } else { 0.5 + x.abs() })
                .collect();
            Self { geometry, conv, norm: [weight, bias, mean, var] }
        }

        fn folded(&self, input: Shape) -> Convolution {
            let weight = self.conv.iter().map(|w| f64::from(*w)).collect();
            let bias = vec![0.0; self.geometry.out_channels];
            let mut conv = Convolution::new(self.geometry, input, weight, &bias);
            let [weight, bias, running_mean, running_var] = &self.norm;
            let epsilon = 1e-5;
            let norm = BatchNorm { weight, bias, running_mean, running_var, epsilon };
            fold_batch_norm(&mut conv, &norm);
            conv
        }

        /// By definition, in double precision: convolve, then normalise.
        fn apply(&self, input: Shape, x: &[f64]) -> Vec<f64> {
            let weight: Vec<f64> = self.conv.iter().map(|w| f64::from(*w)).collect();
            let mut y = reference_convolution(&self.geometry, input, &weight, x);
            let area = self.geometry.output_shape(input).area();
            for (channel, plane) in y.chunks_exact_mut(area).enumerate() {
                let [weight, bias, mean, var] =
                    self.norm.each_ref().map(|values| f64::from(values[channel]));
                for y in plane {
                    *y = (*y - mean) / (var + f64::from(1e-5f32)).sqrt() * weight + bias;
                }
            }
            y
        }
    }

    #[derive(Clone, Copy, Debug)]
    struct Block {
        inputs: usize,
        outputs: usize,
        /// Of the expansion; 1 is a block without it.
        expansion: usize,
        stride: usize,
        height: usize,
        width: usize,
    }

    impl Block {
        fn has_shortcut(&self) -> bool {
            self.stride == 1 && self.inputs == self.outputs
        }

        fn convs(&self, random: &mut ChaCha8Rng) -> Vec<ConvNorm> {
            let hidden = self.inputs * self.expansion;
            let expand = ConvGeometry::same(self.inputs, hidden, 1, 1);
            let depthwise = ConvGeometry::depthwise(hidden, 3, self.stride);
            let project = ConvGeometry::same(hidden, self.outputs, 1, 1);
            let geometries = [expand, depthwise, project].into_iter();
            geometries
                .skip(usize::from(self.expansion == 1))
                .map(|geometry| ConvNorm::random(geometry, random))
                .collect()
        }
    }

    fn blocks() -> impl Strategy<Value = Block> {
        (1..=5usize, 1..=5usize, 1..=4usize, 1..=2usize, 1..=9usize, 1..=9usize, any::<bool>())
            .prop_map(|(inputs, outputs, expansion, stride, height, width, same)| {
                let outputs = if same { inputs } else { outputs };
                Block { inputs, outputs, expansion, stride, height, width }
            })
    }

    proptest! {
        #[test]
        fn an_inverted_residual_is_one_convolution_at_every_pixel(block in blocks(), seed: u64) {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let input = Shape::new(block.inputs, block.height, block.width);
            let image = numbers(&mut random, input.elements());
            let convs = block.convs(&mut random);

            let (mut expected, mut shape) = (image.clone(), input);
            let mut fused: Option<Convolution> = None;
            for conv in &convs {
                expected = conv.apply(shape, &expected);
                let folded = conv.folded(shape);
                shape = conv.geometry.output_shape(shape);
                fused = Some(match fused {
                    None => folded,
                    Some(before) => merge_convs(&before, &folded).expect("one run"),
                });
            }
            let mut fused = fused.expect("two or three convolutions");
            if block.has_shortcut() {
                expected.iter_mut().zip(&image).for_each(|(y, x)| *y += x);
                fused = merge_branches(&fused, &Convolution::identity(input)).expect("centred");
            }

            prop_assert_eq!(
                fused.geometry,
                ConvGeometry::same(block.inputs, block.outputs, 3, block.stride)
            );
            prop_assert!(distance(&expected, &fused.apply(&image)) < 1e-10);
            prop_assert!(distance(&expected, &fused.rounded().apply(&image)) < 1e-4);
        }
    }
}
