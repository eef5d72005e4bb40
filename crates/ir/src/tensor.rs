//! A tensor of floating-point numbers.

/// Row-major `f32` values with their shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Tensor {
    /// The tensor of this shape and content, or `None` where the number of values does not fit.
    #[must_use]
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Option<Self> {
        let elements = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side))?;
        (elements == data.len()).then_some(Self { shape, data })
    }

    /// All elements equal.
    #[must_use]
    pub fn filled(shape: Vec<usize>, value: f32) -> Self {
        let data = vec![value; shape.iter().product()];
        Self { shape, data }
    }

    /// Extent of each dimension.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values, last dimension fastest.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, to change in place.
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The values alone.
    #[must_use]
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }
}
