//! A convolution with a bias map, in double precision: what fusing computes with.

use copriv_ir::{BorderClasses, ConvGeometry, Shape, Tensor};

/// `y = W * x + bias`, `x` padded with zeros, the bias by border class of the output position.
#[derive(Clone, Debug)]
pub(crate) struct Convolution {
    pub(crate) geometry: ConvGeometry,
    /// Of the input map: the border classes depend on it.
    pub(crate) input: Shape,
    /// `[out_channels, in_channels / groups, kernel, kernel]`.
    pub(crate) weight: Vec<f64>,
    pub(crate) bias: BiasMap,
}

impl Convolution {
    /// With the same bias everywhere.
    pub(crate) fn new(
        geometry: ConvGeometry,
        input: Shape,
        weight: Vec<f64>,
        bias: &[f64],
    ) -> Self {
        let bias = BiasMap::from_fn(&geometry, input, |_| bias.to_vec());
        Self { geometry, input, weight, bias }
    }

    /// The convolution that changes nothing.
    pub(crate) fn identity(shape: Shape) -> Self {
        let channels = shape.channels;
        let geometry =
            ConvGeometry { groups: channels, ..ConvGeometry::same(channels, channels, 1, 1) };
        Self::new(geometry, shape, vec![1.0; channels], &vec![0.0; channels])
    }

    /// The input channels that output channel `out` reads, as a range.
    pub(crate) fn inputs_of(&self, out: usize) -> std::ops::Range<usize> {
        inputs_of(&self.geometry, out)
    }

    /// The kernel from the input channel number `channel` of `inputs_of(out)` to `out`.
    pub(crate) fn kernel(&self, out: usize, channel: usize) -> &[f64] {
        let taps = self.geometry.kernel * self.geometry.kernel;
        let start = out * self.geometry.fan_in() + channel * taps;
        &self.weight[start..start + taps]
    }

    /// Weight and bias map in single precision; `None` where a value is not finite.
    pub(crate) fn tensors(&self) -> Option<(Tensor, Tensor)> {
        let weight = single(self.geometry.weight_shape().to_vec(), &self.weight)?;
        let outputs = self.geometry.out_channels;
        let classes = self.bias.values.chunks_exact(outputs);
        let first = self.bias.values.get(..outputs)?;
        let bias = if classes.clone().all(|class| class == first) {
            single(vec![1, 1, outputs], first)?
        } else {
            let BiasMap { rows, columns, values } = &self.bias;
            single(vec![rows.count(), columns.count(), outputs], values)?
        };
        Some((weight, bias))
    }
}

/// The input channels that output channel `out` of a (grouped) convolution reads.
pub(crate) fn inputs_of(geometry: &ConvGeometry, out: usize) -> std::ops::Range<usize> {
    let (inputs, outputs) =
        (geometry.in_channels / geometry.groups, geometry.out_channels / geometry.groups);
    let first = out / outputs * inputs;
    first..first + inputs
}

fn single(shape: Vec<usize>, values: &[f64]) -> Option<Tensor> {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    let finite = values.iter().all(|x| x.is_finite());
    finite.then(|| Tensor::new(shape, values))?
}

/// A bias for each output channel at each class of border positions.
#[derive(Clone, Debug)]
pub(crate) struct BiasMap {
    rows: BorderClasses,
    columns: BorderClasses,
    /// `[row classes, column classes, out_channels]`.
    values: Vec<f64>,
}

impl BiasMap {
    /// The map whose bias at output position `[row, column]` is `bias([row, column])`. The function is asked
    /// once for each class and must give the same for all positions of a class.
    pub(crate) fn from_fn(
        geometry: &ConvGeometry,
        input: Shape,
        bias: impl Fn([usize; 2]) -> Vec<f64>,
    ) -> Self {
        let rows = geometry.border_classes(input.height);
        let columns = geometry.border_classes(input.width);
        let mut values = Vec::new();
        for row in representatives(&rows) {
            for column in representatives(&columns) {
                values.extend(bias([row, column]));
            }
        }
        Self { rows, columns, values }
    }

    /// The biases of all output channels at a position of the output map.
    pub(crate) fn at(&self, [row, column]: [usize; 2]) -> &[f64] {
        let class = self.rows.class_of_output()[row] * self.columns.count()
            + self.columns.class_of_output()[column];
        let outputs = self.values.len() / (self.rows.count() * self.columns.count());
        &self.values[class * outputs..(class + 1) * outputs]
    }

    /// Replaces each bias by `change(output channel, bias)`.
    pub(crate) fn map(&mut self, change: impl Fn(usize, f64) -> f64) {
        let outputs = self.values.len() / (self.rows.count() * self.columns.count());
        for class in self.values.chunks_exact_mut(outputs) {
            class.iter_mut().enumerate().for_each(|(out, bias)| *bias = change(out, *bias));
        }
    }
}

/// The first position of each class, in the order of the classes.
fn representatives(classes: &BorderClasses) -> impl Iterator<Item = usize> {
    let position = |class| classes.class_of_output().iter().position(|known| *known == class);
    (0..classes.count()).filter_map(position)
}

#[cfg(test)]
pub(crate) mod testing {
    //! Random convolutions and their meaning.

    use super::*;
    use copriv_ir::evaluate::reference_convolution;
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;

    /// `count` numbers between -1 and 1.
    pub(crate) fn numbers(random: &mut ChaCha8Rng, count: usize) -> Vec<f64> {
        (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    impl Convolution {
        pub(crate) fn random(
            geometry: ConvGeometry,
            input: Shape,
            random: &mut ChaCha8Rng,
        ) -> Self {
            let weight = numbers(random, geometry.weight_elements());
            let bias = numbers(random, geometry.out_channels);
            Self::new(geometry, input, weight, &bias)
        }

        /// The output for one map, channel-major.
        pub(crate) fn apply(&self, input: &[f64]) -> Vec<f64> {
            let mut output = reference_convolution(&self.geometry, self.input, &self.weight, input);
            let shape = self.output();
            for (position, value) in output.iter_mut().enumerate() {
                let (channel, pixel) = (position / shape.area(), position % shape.area());
                *value += self.bias.at([pixel / shape.width, pixel % shape.width])[channel];
            }
            output
        }

        pub(crate) fn output(&self) -> Shape {
            self.geometry.output_shape(self.input)
        }

        /// The same as it is stored: rounded to single precision.
        pub(crate) fn rounded(&self) -> Self {
            let (weight, bias) = self.tensors().expect("finite");
            let double = |tensor: &Tensor| tensor.data().iter().map(|x| f64::from(*x)).collect();
            let mut rounded = Self { weight: double(&weight), ..self.clone() };
            rounded.bias.values = if bias.shape()[..2] == [1, 1] {
                let classes = self.bias.rows.count() * self.bias.columns.count();
                double(&bias).repeat(classes)
            } else {
                double(&bias)
            };
            rounded
        }
    }

    /// The largest difference relative to the largest expected value; every pixel counts.
    pub(crate) fn distance(expected: &[f64], found: &[f64]) -> f64 {
        assert_eq!(expected.len(), found.len());
        let size = expected.iter().fold(f64::MIN_POSITIVE, |size, x| size.max(x.abs()));
        let differences = expected.iter().zip(found).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f64::max) / size
    }
}
