//! Values onto a grid, straight through for gradients.

use super::host::{HostOp, HostTensor};
use super::map::build;
use super::vector::vectorised;
use burn::tensor::{Device, Tensor, TensorData};
use std::sync::Arc;

/// Numbers from 0 to 1, uniform, that decide which neighbour each value of a batch of maps goes to: the lower one where it and its
/// number stay below 1.
///
/// Those of a map are independent of each other; each map has the same but for a rotation.
#[derive(Clone, Debug)]
pub(crate) struct Chances {
    /// `[height, width, channels]`.
    pub(crate) places: Vec<f32>,
    /// By how much they are rotated for each map of the batch.
    pub(crate) maps: Vec<f32>,
}

impl Chances {
    /// As a tensor for maps of `dims`.
    pub(super) fn tensor(&self, dims: [usize; 4], device: &Device) -> Tensor<4> {
        let [batch, channels, height, width] = dims;
        let places = TensorData::new(self.places.clone(), [1, height, width, channels]);
        let places = Tensor::<4>::from_data(places, device).permute([0, 3, 1, 2]);
        let maps = TensorData::new(self.maps.clone(), [batch, 1, 1, 1]);
        let sum = places + Tensor::from_data(maps, device);
        sum.clone() - sum.floor()
    }
}

/// Input: maps; output: each value a multiple of one over `unit`, a power of two.
#[derive(Clone, Debug)]
pub(super) struct OntoGrid {
    pub(super) unit: f32,
    /// To the nearest multiple, halves to the even one, without.
    pub(super) chances: Option<Arc<Chances>>,
}

impl HostOp<1> for OntoGrid {
    type Found = ();

    fn forward(&self, [x]: &[HostTensor; 1]) -> (HostTensor, ()) {
        let (values, (batch, _)) = (x.values(), x.extents());
        let size = values.len() / batch.max(1);
        let (unit, step) = (self.unit, 1.0 / self.unit);
        let (output, _) = build(values.len(), size, |map, output| {
            let (x, y) = (&values[map * size..][..size], output.take(size));
            match &self.chances {
                None => vectorised(|| {
                    let pairs = y.iter_mut().zip(x);
                    pairs.for_each(|(y, x)| *y = (x * unit).round_ties_even() * step);
                }),
                Some(chances) => {
                    let (places, turn) = (&chances.places[..size], chances.maps[map]);
                    vectorised(|| {
                        for ((y, x), place) in y.iter_mut().zip(x).zip(places) {
                            let chance = place + turn;
                            *y = (x * unit + (chance - chance.floor())).floor() * step;
                        }
                    });
                }
            }
        });
        (HostTensor::new(output, x.shape().to_vec()), ())
    }

    fn backward(
        &self,
        _: &[HostTensor; 1],
        (): &(),
        gradient: &HostTensor,
        _: [bool; 1],
    ) -> [Option<HostTensor>; 1] {
        [Some(gradient.clone())]
    }
}
