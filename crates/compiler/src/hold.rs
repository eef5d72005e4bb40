//! Widths that hold the weights of a model that they were not chosen for.

use crate::CompileError;
use crate::narrow::weight_scale;
use copriv_ir::{FusedModel, FusedOp, Widths};

/// A layer whose weights need more bits than it was to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Widened {
    /// The layer.
    pub layer: String,
    /// The bits that it was to have, and has.
    pub bits: [u32; 2],
    /// Its largest weight.
    pub largest: f64,
}

/// `widths` from the plan of a network that has been fine-tuned since: the same, but for layers with a weight whose integer part alone
/// takes more bits. Fine-tuning rounds the weights of these to integers, and so will a plan with as many bits as that takes.
///
/// # Errors
/// [`CompileError::Weights`] for a model that lacks some.
pub fn widths_that_hold(
    model: &FusedModel,
    mut widths: Widths,
) -> Result<(Widths, Vec<Widened>), CompileError> {
    let mut widened = vec![];
    for layer in model.layers().iter().filter(|layer| matches!(layer.op, FusedOp::Conv(_))) {
        match weight_scale(model, layer, widths.weight(&layer.name)) {
            Ok(_) => {}
            Err(CompileError::CoarseWeights { layer, largest, needed, available }) => {
                let layers = widths.layers.get_or_insert_default();
                layers.weights.insert(layer.clone(), needed);
                widened.push(Widened { layer, bits: [available, needed], largest });
            }
            Err(error) => return Err(error),
        }
    }
    Ok((widths, widened))
}
