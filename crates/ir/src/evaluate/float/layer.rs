//! One layer in single precision.

use crate::evaluate::convolution::convolve;
use crate::{Activation, ActivationMask, ConvGeometry, Shape, Tensor};

pub(super) struct FloatLayer {
    pub(super) op: FloatOp,
    pub(super) inputs: Vec<usize>,
    /// Of the output.
    pub(super) shape: Shape,
}

pub(super) enum FloatOp {
    Input,
    Identity,
    Conv {
        geometry: ConvGeometry,
        weight: Vec<f32>,
        bias: Option<BiasMap>,
    },
    Affine(Affine),
    /// Of the values of a mask, or all.
    Activation(Activation, Option<ActivationMask>),
    Add,
    MaxPool {
        kernel: usize,
        stride: usize,
        padding: usize,
    },
    GlobalAveragePool,
}

impl FloatLayer {
    /// The output, from the network's image and this layer's inputs.
    pub(super) fn output(&self, image: &[f32], inputs: &[(Shape, &[f32])]) -> Vec<f32> {
        match (&self.op, inputs) {
            (FloatOp::Input, []) => {
                let (expected, found) = (self.shape.elements(), image.len());
                assert_eq!(expected, found, "an image for {} has {expected} values", self.shape);
                image.to_vec()
            }
            (FloatOp::Identity, [(_, x)]) => x.to_vec(),
            (FloatOp::Conv { geometry, weight, bias }, [(shape, x)]) => {
                let mut y = convolve(geometry, *shape, weight, x);
                if let Some(bias) = bias {
                    bias.add_to(&mut y);
                }
                y
            }
            (FloatOp::Affine(affine), [(shape, x)]) => affine.apply(*shape, x),
            (FloatOp::Activation(function, None), [(_, x)]) => {
                x.iter().map(|x| function.apply(*x)).collect()
            }
            (FloatOp::Activation(function, Some(mask)), [(_, x)]) => {
                let value = |(&x, activated)| if activated { function.apply(x) } else { x };
                x.iter().zip(mask.values()).map(value).collect()
            }
            (FloatOp::Add, [(_, x), (_, y)]) => x.iter().zip(*y).map(|(x, y)| x + y).collect(),
            (FloatOp::MaxPool { kernel, stride, padding }, [(shape, x)]) => {
                let geometry = ConvGeometry {
                    padding: *padding,
                    ..ConvGeometry::depthwise(shape.channels, *kernel, *stride)
                };
                x.chunks_exact(shape.area())
                    .flat_map(|plane| max_pool(&geometry, *shape, plane))
                    .collect()
            }
            (FloatOp::GlobalAveragePool, [(shape, x)]) => {
                let mean = |plane: &[f32]| plane.iter().sum::<f32>() / plane.len() as f32;
                x.chunks_exact(shape.area()).map(mean).collect()
            }
            _ => unreachable!("graphs are checked to give every operation its number of inputs"),
        }
    }
}

fn max_pool(geometry: &ConvGeometry, shape: Shape, plane: &[f32]) -> Vec<f32> {
    let ConvGeometry { kernel, stride, padding, .. } = *geometry;
    // Padding never wins: windows are cut to the map.
    let window = |position: usize, extent: usize| {
        let start = position * stride;
        start.saturating_sub(padding)..(start + kernel).saturating_sub(padding).min(extent)
    };
    let mut pooled = Vec::with_capacity(geometry.output_shape(shape).area());
    for row in 0..geometry.output_extent(shape.height) {
        for column in 0..geometry.output_extent(shape.width) {
            let columns = window(column, shape.width);
            let values = window(row, shape.height)
                .flat_map(|y| &plane[y * shape.width..(y + 1) * shape.width][columns.clone()]);
            pooled.push(values.copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
    pooled
}

/// `scale * x + shift` for each channel.
pub(super) struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Affine {
    /// Batch norm with running statistics: `[weight, bias, running_mean, running_var]`.
    pub(super) fn batch_norm(parameters: [&Tensor; 4], epsilon: f32) -> Self {
        let [weight, bias, mean, var] = parameters.map(|tensor| tensor.data().iter());
        let (scale, shift) = weight
            .zip(bias)
            .zip(mean.zip(var))
            .map(|((&weight, &bias), (&mean, &var))| {
                let scale = f64::from(weight) / (f64::from(var) + f64::from(epsilon)).sqrt();
                (scale as f32, (f64::from(bias) - f64::from(mean) * scale) as f32)
            })
            .unzip();
        Self { scale, shift }
    }

    fn apply(&self, shape: Shape, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        let planes = y.chunks_exact_mut(shape.area()).zip(self.scale.iter().zip(&self.shift));
        for (plane, (scale, shift)) in planes {
            plane.iter_mut().for_each(|y| *y = scale * *y + shift);
        }
        y
    }
}

/// A convolution's bias by border class, spread over the output map's rows and columns.
pub(super) struct BiasMap {
    /// Class of each output row and column; all 0 where the bias is the same everywhere.
    rows: Vec<usize>,
    columns: Vec<usize>,
    /// `[out_channels, row classes, column classes]`.
    values: Vec<f32>,
    classes: [usize; 2],
}

impl BiasMap {
    /// From `bias` of shape `[row classes, column classes, out_channels]`, `[1, 1, out_channels]` or
    /// `[out_channels]`, for a convolution of a map of shape `input`.
    pub(super) fn new(geometry: &ConvGeometry, input: Shape, bias: &Tensor) -> Self {
        let outputs = geometry.out_channels;
        let output = geometry.output_shape(input);
        let is_uniform = bias.data().len() == outputs;
        let [rows, columns] = [(input.height, output.height), (input.width, output.width)].map(
            |(extent, positions)| {
                let classes = geometry.border_classes(extent);
                if is_uniform {
                    (1, vec![0; positions])
                } else {
                    (classes.count(), classes.class_of_output().to_vec())
                }
            },
        );
        let values = (0..outputs)
            .flat_map(|channel| bias.data().iter().skip(channel).step_by(outputs).copied())
            .collect();
        Self { rows: rows.1, columns: columns.1, values, classes: [rows.0, columns.0] }
    }

    fn add_to(&self, map: &mut [f32]) {
        let [_, column_classes] = self.classes;
        let planes = map.chunks_exact_mut(self.rows.len() * self.columns.len());
        for (plane, values) in planes.zip(self.values.chunks_exact(self.classes.iter().product())) {
            for (row, &class) in plane.chunks_exact_mut(self.columns.len()).zip(&self.rows) {
                let values = &values[class * column_classes..][..column_classes];
                row.iter_mut().zip(&self.columns).for_each(|(y, &class)| *y += values[class]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], data: &[f32]) -> Tensor {
        Tensor::new(shape.to_vec(), data.to_vec()).expect("as many values")
    }

    fn output(op: FloatOp, input: Shape, x: &[f32]) -> Vec<f32> {
        let layer = FloatLayer { op, inputs: vec![0], shape: input };
        layer.output(&[], &[(input, x)])
    }

    #[test]
    fn max_pool_ignores_its_padding() {
        let op = FloatOp::MaxPool { kernel: 3, stride: 2, padding: 1 };
        let x = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0];
        assert_eq!(output(op, Shape::new(1, 3, 3), &x), [-1.0, -2.0, -4.0, -5.0]);
    }

    #[test]
    fn pooling_and_batch_norm_go_by_channel() {
        let (shape, x) = (Shape::new(2, 1, 2), [1.0, 3.0, 10.0, 30.0]);
        assert_eq!(output(FloatOp::GlobalAveragePool, shape, &x), [2.0, 20.0]);
        let [weight, bias, mean, var] =
            [[2.0, -1.0], [0.5, 0.0], [1.0, 10.0], [3.0, 0.0]].map(|x| tensor(&[2], &x));
        let norm = Affine::batch_norm([&weight, &bias, &mean, &var], 1.0);
        assert_eq!(output(FloatOp::Affine(norm), shape, &x), [0.5, 2.5, 0.0, -20.0]);
    }

    #[test]
    fn a_bias_map_goes_by_border_class() {
        let geometry = ConvGeometry::same(1, 2, 3, 1);
        let input = Shape::new(1, 3, 4);
        let mut bias = Tensor::filled(vec![3, 3, 2], 0.0);
        for (i, value) in bias.data_mut().iter_mut().enumerate() {
            *value = i as f32;
        }
        let mut map = vec![0.0; 24];
        BiasMap::new(&geometry, input, &bias).add_to(&mut map);
        let even = [0.0, 2.0, 2.0, 4.0, 6.0, 8.0, 8.0, 10.0, 12.0, 14.0, 14.0, 16.0];
        assert_eq!(map[..12], even);
        assert_eq!(map[12..], even.map(|x| x + 1.0));

        let uniform = BiasMap::new(&geometry, input, &tensor(&[1, 1, 2], &[5.0, 7.0]));
        let mut map = vec![1.0; 24];
        uniform.add_to(&mut map);
        assert_eq!(map, [[6.0; 12], [8.0; 12]].concat());
    }
}
