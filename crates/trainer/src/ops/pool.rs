//! The mean over all pixels of each channel.

use super::host::{HostOp, HostTensor};
use super::map::build;
use super::vector::vectorised;

/// Input: a map; output: a map of one pixel.
#[derive(Clone, Debug)]
pub(super) struct GlobalAverage;

impl HostOp<1> for GlobalAverage {
    type Found = ();

    fn forward(&self, [x]: &[HostTensor; 1]) -> (HostTensor, ()) {
        let (batch, [height, width]) = x.extents();
        let (channels, area) = (x.channels(), height * width);
        let values = x.values();
        let (means, _) = build(batch * channels, channels, |image, means| {
            let (means, size) = (means.take(channels), area * channels);
            let pixels = values[image * size..][..size].chunks_exact(channels.max(1));
            vectorised(|| {
                for pixel in pixels {
                    means.iter_mut().zip(pixel).for_each(|(mean, x)| *mean += x);
                }
                means.iter_mut().for_each(|mean| *mean /= area as f32);
            });
        });
        (HostTensor::new(means, vec![batch, 1, 1, channels]), ())
    }

    fn backward(
        &self,
        [x]: &[HostTensor; 1],
        (): &(),
        gradient: &HostTensor,
        _: [bool; 1],
    ) -> [Option<HostTensor>; 1] {
        let (batch, [height, width]) = x.extents();
        let (channels, area) = (x.channels(), height * width);
        let dy = gradient.values();
        let (dx, _) = build(batch * area * channels, area * channels, |image, dx| {
            let dy = &dy[image * channels..][..channels];
            let dx = dx.take(area * channels);
            vectorised(|| {
                for pixel in dx.chunks_exact_mut(channels.max(1)) {
                    pixel.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy / area as f32);
                }
            });
        });
        [Some(HostTensor::new(dx, x.shape().to_vec()))]
    }
}
