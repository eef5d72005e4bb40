//! 1x1 convolutions at stride 1: one matrix product an image.

use super::host::{HostOp, HostTensor};
use copriv_ir::ConvGeometry;
use rayon::prelude::*;

/// Inputs: x `[batch, in, height, width]`, weight `[out, in, 1, 1]`.
#[derive(Clone, Debug)]
pub(super) struct Pointwise {
    inputs: usize,
    outputs: usize,
}

/// Images whose weight gradients are added up by one task; fixed, so that the order of additions is.
const GROUP: usize = 8;

impl Pointwise {
    /// The operation for a convolution of this geometry, if it is one.
    pub(super) fn of(geometry: &ConvGeometry) -> Option<Self> {
        let ConvGeometry { in_channels, out_channels, kernel, stride, padding, groups } = *geometry;
        ((kernel, stride, padding, groups) == (1, 1, 0, 1))
            .then_some(Self { inputs: in_channels, outputs: out_channels })
    }
}

impl HostOp<2> for Pointwise {
    type Found = ();

    fn forward(&self, [x, weight]: &[HostTensor; 2]) -> (HostTensor, ()) {
        let (batch, _, area) = x.planes();
        let weight = Matrix::row_major(weight.values(), self.outputs, self.inputs);
        let (size, values) = (self.inputs * area, x.values());
        let mut shape = x.shape().to_vec();
        (shape[0], shape[1]) = (batch, self.outputs);
        let output = HostTensor::build(shape, self.outputs * area, |image, output| {
            let x = Matrix::row_major(&values[image * size..][..size], self.inputs, area);
            multiply(output, area, weight, x, false);
        });
        (output, ())
    }

    fn backward(
        &self,
        [x, weight]: &[HostTensor; 2],
        (): &(),
        gradient: &HostTensor,
        wanted: [bool; 2],
    ) -> [Option<HostTensor>; 2] {
        [
            wanted[0].then(|| self.input_gradient(x, weight, gradient)),
            wanted[1].then(|| self.weight_gradient(x, weight, gradient)),
        ]
    }
}

impl Pointwise {
    fn input_gradient(&self, x: &HostTensor, weight: &HostTensor, dy: &HostTensor) -> HostTensor {
        let (_, _, area) = x.planes();
        let weight = Matrix::row_major(weight.values(), self.outputs, self.inputs).transposed();
        let (size, values) = (self.outputs * area, dy.values());
        HostTensor::build(x.shape().to_vec(), self.inputs * area, |image, dx| {
            let dy = Matrix::row_major(&values[image * size..][..size], self.outputs, area);
            multiply(dx, area, weight, dy, false);
        })
    }

    fn weight_gradient(&self, x: &HostTensor, weight: &HostTensor, dy: &HostTensor) -> HostTensor {
        let (_, _, area) = x.planes();
        let group = |(x, dy): (&[f32], &[f32])| {
            let mut sum = vec![0.0; self.outputs * self.inputs];
            let images =
                x.chunks_exact(self.inputs * area).zip(dy.chunks_exact(self.outputs * area));
            for (x, dy) in images {
                let x = Matrix::row_major(x, self.inputs, area).transposed();
                multiply(&mut sum, self.inputs, Matrix::row_major(dy, self.outputs, area), x, true);
            }
            sum
        };
        let groups: Vec<Vec<f32>> = (x.values().par_chunks(GROUP * self.inputs * area))
            .zip(dy.values().par_chunks(GROUP * self.outputs * area))
            .map(group)
            .collect();
        let mut total = vec![0.0; self.outputs * self.inputs];
        for group in groups {
            total.iter_mut().zip(group).for_each(|(total, value)| *total += value);
        }
        HostTensor::new(total, weight.shape().to_vec())
    }
}

/// A matrix in a slice of as many values.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// # Panics
    /// Where the slice has another number of values.
    fn row_major(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix fills its slice");
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `output = a b`, or `output += a b`; the output is row-major with so many columns.
///
/// # Panics
/// Where the sizes do not agree.
fn multiply(output: &mut [f32], columns: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) {
    assert_eq!((a.columns, b.columns), (b.rows, columns), "sizes of a product");
    assert_eq!(output.len(), a.rows * columns, "size of a product's result");
    let stride = |stride: usize| stride as isize;
    // SAFETY: a matrix's strides stay within its slice (checked where it is made), the sizes of the
    // three agree (checked above), and the output, borrowed mutably, overlaps neither input.
    unsafe {
        gemm::gemm(
            a.rows,
            columns,
            a.columns,
            output.as_mut_ptr(),
            1,
            stride(columns),
            accumulate,
            a.values.as_ptr(),
            stride(a.column_stride),
            stride(a.row_stride),
            b.values.as_ptr(),
            stride(b.column_stride),
            stride(b.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
