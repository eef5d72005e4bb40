//! A tensor of a foreign file, and its values in single precision.

use super::TensorFaultKind;
use crate::Tensor;
use safetensors::tensor::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// The tensors of a foreign file by name.
pub type ForeignTensors<'a> = BTreeMap<String, ForeignTensor<'a>>;

type Read<'a> = dyn Fn() -> Result<Cow<'a, [u8]>, String> + 'a;

/// A tensor of a foreign file: what the file says of it, and how to read its content.
///
/// The content is read only once name and shape fit, so that a hostile file cannot make it large.
pub struct ForeignTensor<'a> {
    element: ElementType,
    shape: Vec<usize>,
    read: Box<Read<'a>>,
}

/// The element types that weights come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// IEEE 754 double precision; rounded to single.
    F64,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// What weights are not made of.
    Other(String),
}

impl<'a> ForeignTensor<'a> {
    /// A tensor whose little-endian, row-major content `read` gives (or says why not).
    pub fn new(
        element: ElementType,
        shape: Vec<usize>,
        read: impl Fn() -> Result<Cow<'a, [u8]>, String> + 'a,
    ) -> Self {
        Self { element, shape, read: Box::new(read) }
    }

    /// Extent of each dimension.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its values; the shape is taken to be the right one.
    pub(super) fn values(&self) -> Result<Tensor, TensorFaultKind> {
        let decode: fn(&[u8]) -> Vec<f32> = match &self.element {
            ElementType::F64 => |bytes| numbers(bytes, |x| f64::from_le_bytes(x) as f32),
            ElementType::F32 => |bytes| numbers(bytes, f32::from_le_bytes),
            ElementType::F16 => |bytes| numbers(bytes, |x| from_f16(u16::from_le_bytes(x))),
            ElementType::BF16 => {
                |bytes| numbers(bytes, |x| f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16))
            }
            ElementType::Other(name) => {
                return Err(TensorFaultKind::ElementType { found: name.clone() });
            }
        };
        let bytes = (self.read)().map_err(|reason| TensorFaultKind::Unreadable { reason })?;
        let data = decode(&bytes);
        if !data.iter().all(|x| x.is_finite()) {
            return Err(TensorFaultKind::NotFinite);
        }
        let values = data.len();
        Tensor::new(self.shape.clone(), data).ok_or_else(|| TensorFaultKind::Unreadable {
            reason: format!("{values} values do not make {:?}", self.shape),
        })
    }
}

impl fmt::Debug for ForeignTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.element, self.shape)
    }
}

impl From<Dtype> for ElementType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F64 => Self::F64,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
            other => Self::Other(format!("{other:?}")),
        }
    }
}

fn numbers<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| number(*chunk)).collect()
}

/// The value of an IEEE 754 half: sign, 5 bits of exponent, 10 of fraction.
fn from_f16(bits: u16) -> f32 {
    let (exponent, fraction) = (bits >> 10 & 0x1f, f32::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(i32::from(exponent) - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_have_their_values() {
        let known = [
            (0x0000, 0.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0x3c01, 1.000_976_6),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, value) in known {
            assert_eq!(from_f16(bits), value, "{bits:#06x}");
        }
        assert!(from_f16(0x7c01).is_nan());
    }
}
