//! Activations in part: which values of a map go through the non-linearity, the others passing as they are.
//!
//! Selective Network Linearization (Cho et al., arXiv 2202.02340) and SENet (Kundu et al., arXiv 2301.09254) leave a layer
//! some of its ReLUs, by channel or by single value: `m act(x) + (1 - m) x` for a mask `m` of zeros and ones.

use crate::Shape;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How finely activations are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// All values of a channel go together.
    Channel,
    /// Each value of the map by itself.
    Pixel,
}

impl Granularity {
    /// The word for it in settings and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Pixel => "pixel",
        }
    }

    /// Masks of a map of this shape have so many bits.
    #[must_use]
    pub const fn bits(self, shape: Shape) -> usize {
        match self {
            Self::Channel => shape.channels,
            Self::Pixel => shape.elements(),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Some values of a map, neither all nor none, in the coarsest form: by channel wherever each channel is whole or absent.
/// Equal choices are thus equal masks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "MaskFields", into = "MaskFields")]
pub struct ActivationMask {
    shape: Shape,
    granularity: Granularity,
    bits: Vec<bool>,
}

/// As it stands in JSON: bits packed from the least significant of each byte, in hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaskFields {
    shape: Shape,
    by: Granularity,
    bits: String,
}

/// Which values of a map an activation applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activated {
    /// Every one.
    All,
    /// Some of them.
    Part(ActivationMask),
    /// Not one: there is no activation.
    None,
}

impl Activated {
    /// The values that `bits` choose of a map of shape `shape`: one bit a channel, or one a value, in the map's order.
    ///
    /// # Errors
    /// [`MaskFault::Length`] for another number of bits, [`MaskFault::Shape`] for a map that nothing can have.
    pub fn of_bits(
        shape: Shape,
        granularity: Granularity,
        bits: Vec<bool>,
    ) -> Result<Self, MaskFault> {
        if !shape.is_possible() {
            return Err(MaskFault::Shape { found: shape });
        }
        let (expected, found) = (granularity.bits(shape), bits.len());
        if expected != found {
            return Err(MaskFault::Length { shape, granularity, expected, found });
        }
        let count = bits.iter().filter(|bit| **bit).count();
        if count == 0 {
            return Ok(Self::None);
        }
        if count == bits.len() {
            return Ok(Self::All);
        }
        let is_uniform = |channel: &[bool]| channel.iter().all(|bit| *bit == channel[0]);
        let mask = match granularity {
            Granularity::Pixel if bits.chunks(shape.area()).all(is_uniform) => ActivationMask {
                shape,
                granularity: Granularity::Channel,
                bits: bits.into_iter().step_by(shape.area()).collect(),
            },
            _ => ActivationMask { shape, granularity, bits },
        };
        Ok(Self::Part(mask))
    }
}

impl ActivationMask {
    /// The mask of these bits: see [`Activated::of_bits`].
    ///
    /// # Errors
    /// As there; [`MaskFault::NotPartial`] where that is all or nothing, and [`MaskFault::Finer`] where the bits of values
    /// say no more than bits of channels would.
    pub fn new(shape: Shape, granularity: Granularity, bits: Vec<bool>) -> Result<Self, MaskFault> {
        match Activated::of_bits(shape, granularity, bits)? {
            Activated::Part(mask) if mask.granularity == granularity => Ok(mask),
            Activated::Part(_) => Err(MaskFault::Finer),
            Activated::All | Activated::None => Err(MaskFault::NotPartial),
        }
    }

    /// The map's shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What a bit stands for.
    #[must_use]
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// One bit a channel or value, in the map's order: whether it is activated.
    #[must_use]
    pub fn bits(&self) -> &[bool] {
        &self.bits
    }

    /// Whether each value of the map, in its order, is activated.
    pub fn values(&self) -> impl Iterator<Item = bool> + '_ {
        let repeat = match self.granularity {
            Granularity::Channel => self.shape.area(),
            Granularity::Pixel => 1,
        };
        self.bits.iter().flat_map(move |&bit| std::iter::repeat_n(bit, repeat))
    }

    /// The positions of the activated values, in order.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.values().enumerate().filter(|(_, bit)| *bit).map(|(position, _)| position)
    }

    /// How many values are activated.
    #[must_use]
    pub fn count(&self) -> usize {
        let bits = self.bits.iter().filter(|bit| **bit).count();
        match self.granularity {
            Granularity::Channel => bits * self.shape.area(),
            Granularity::Pixel => bits,
        }
    }

    /// Of each channel how many values are activated.
    #[must_use]
    pub fn counts_by_channel(&self) -> Vec<usize> {
        let area = self.shape.area();
        let ones = |bits: &[bool]| bits.iter().filter(|bit| **bit).count();
        match self.granularity {
            Granularity::Channel => self.bits.iter().map(|bit| usize::from(*bit) * area).collect(),
            Granularity::Pixel => self.bits.chunks(area).map(ones).collect(),
        }
    }

    /// The bits in bytes, the first in the least significant place, the last byte filled up with zeros.
    #[must_use]
    pub(crate) fn packed(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| {
            bits.iter().enumerate().fold(0, |byte, (place, &bit)| byte | u8::from(bit) << place)
        };
        self.bits.chunks(8).map(byte).collect()
    }

    /// The mask whose [`Self::packed`] bytes these are.
    pub(crate) fn unpacked(
        shape: Shape,
        granularity: Granularity,
        bytes: &[u8],
    ) -> Result<Self, MaskFault> {
        if !shape.is_possible() {
            return Err(MaskFault::Shape { found: shape });
        }
        let expected = granularity.bits(shape);
        if bytes.len() != expected.div_ceil(8) {
            let found = bytes.len() * 8;
            return Err(MaskFault::Length { shape, granularity, expected, found });
        }
        let mut bits: Vec<bool> =
            bytes.iter().flat_map(|byte| (0..8).map(move |place| byte >> place & 1 == 1)).collect();
        if bits.split_off(expected).contains(&true) {
            return Err(MaskFault::Filling);
        }
        Self::new(shape, granularity, bits)
    }
}

impl fmt::Debug for ActivationMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActivationMask({self})")
    }
}

/// For people: how many of how many.
impl fmt::Display for ActivationMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, granularity, .. } = self;
        write!(f, "{} of {} by {granularity}", self.count(), shape.elements())
    }
}

impl From<ActivationMask> for MaskFields {
    fn from(mask: ActivationMask) -> Self {
        let bits = mask.packed().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { shape: mask.shape, by: mask.granularity, bits }
    }
}

impl TryFrom<MaskFields> for ActivationMask {
    type Error = MaskFault;

    fn try_from(fields: MaskFields) -> Result<Self, MaskFault> {
        let digits: Option<Vec<u8>> =
            fields.bits.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0).ok_or(MaskFault::Digits)?;
        let bytes: Vec<u8> =
            digits.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect();
        Self::unpacked(fields.shape, fields.by, &bytes)
    }
}

/// Bits that are no mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum MaskFault {
    #[error("a mask by {granularity} of a map of {shape} has {expected} bits, not {found}")]
    Length { shape: Shape, granularity: Granularity, expected: usize, found: usize },
    #[error("no map has the shape {found}")]
    Shape { found: Shape },
    #[error("a mask's bits are an even number of hexadecimal digits")]
    Digits,
    #[error("the bits that fill up a mask's last byte are not zero")]
    Filling,
    #[error("a mask that keeps all values or none is not stored")]
    NotPartial,
    #[error("each channel is whole or absent, so the mask goes by channel")]
    Finer,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: Shape = Shape::new(3, 2, 2);

    fn part(granularity: Granularity, bits: Vec<bool>) -> ActivationMask {
        match Activated::of_bits(SHAPE, granularity, bits).expect("fits") {
            Activated::Part(mask) => mask,
            other => panic!("{other:?} is no part"),
        }
    }

    #[test]
    fn all_and_none_are_no_masks_and_whole_channels_go_by_channel() {
        let of = |granularity, bits| Activated::of_bits(SHAPE, granularity, bits);
        assert_eq!(of(Granularity::Channel, vec![true; 3]), Ok(Activated::All));
        assert_eq!(of(Granularity::Pixel, vec![false; 12]), Ok(Activated::None));
        let channels = part(Granularity::Channel, vec![true, false, true]);
        let pixels = channels.values().collect();
        assert_eq!(part(Granularity::Pixel, pixels), channels);
        assert_eq!(channels.count(), 8);
        assert_eq!(channels.counts_by_channel(), [4, 0, 4]);
        assert_eq!(channels.positions().collect::<Vec<_>>(), [0, 1, 2, 3, 8, 9, 10, 11]);
        assert_eq!(channels.to_string(), "8 of 12 by channel");

        let mut bits = vec![false; 12];
        (bits[1], bits[10]) = (true, true);
        let pixels = part(Granularity::Pixel, bits);
        assert_eq!(pixels.granularity(), Granularity::Pixel);
        assert_eq!(pixels.counts_by_channel(), [1, 0, 1]);
        assert_eq!(pixels.positions().collect::<Vec<_>>(), [1, 10]);
    }

    #[test]
    fn json_holds_packed_bits_and_what_is_no_mask_is_refused() {
        let mut bits = vec![false; 12];
        (bits[1], bits[10]) = (true, true);
        let text = serde_json::to_string(&part(Granularity::Pixel, bits)).expect("JSON");
        assert_eq!(text, r#"{"shape":[3,2,2],"by":"pixel","bits":"0204"}"#);
        let fault = |shape: &str, by: &str, bits: &str| {
            let text = format!(r#"{{"shape":{shape},"by":"{by}","bits":"{bits}"}}"#);
            serde_json::from_str::<ActivationMask>(&text).expect_err("no mask").to_string()
        };
        for (shape, by, bits, expected) in [
            ("[3,2,2]", "pixel", "02", "a mask by pixel of a map of 3x2x2 has 12 bits, not 8"),
            ("[3,2,2]", "channel", "0204", "a mask by channel of a map of 3x2x2 has 3 bits"),
            ("[3,2,2]", "pixel", "020", "an even number of hexadecimal digits"),
            ("[3,2,2]", "pixel", "02\u{e9}x", "an even number of hexadecimal digits"),
            ("[3,2,2]", "pixel", "0214", "fill up a mask's last byte are not zero"),
            ("[3,2,2]", "pixel", "ff0f", "all values or none"),
            ("[3,2,2]", "channel", "00", "all values or none"),
            ("[3,2,2]", "pixel", "0f00", "goes by channel"),
            ("[3,0,2]", "channel", "01", "no map has the shape 3x0x2"),
            ("[4294967296,4294967296,2]", "pixel", "01", "no map has the shape"),
            ("[3,2,2]", "row", "01", "unknown variant `row`"),
        ] {
            assert!(fault(shape, by, bits).contains(expected), "{shape} {by} {bits}");
        }
    }

    proptest! {
        #[test]
        fn masks_come_back_from_json_and_say_the_same_of_each_value(
            (channels, height, width) in (1usize..6, 1usize..5, 1usize..5), by_pixel: bool, seed: u64,
        ) {
            let shape = Shape::new(channels, height, width);
            let by = if by_pixel { Granularity::Pixel } else { Granularity::Channel };
            let bits: Vec<bool> =
                (0..by.bits(shape)).map(|i| seed.rotate_left(i as u32 * 7) & 1 == 1).collect();
            let area = if by_pixel { 1 } else { shape.area() };
            let chosen: Vec<usize> =
                (0..shape.elements()).filter(|position| bits[position / area]).collect();
            match Activated::of_bits(shape, by, bits).expect("fits") {
                Activated::All => prop_assert_eq!(chosen.len(), shape.elements()),
                Activated::None => prop_assert!(chosen.is_empty()),
                Activated::Part(mask) => {
                    prop_assert_eq!(mask.positions().collect::<Vec<_>>(), chosen);
                    prop_assert_eq!(mask.values().filter(|bit| *bit).count(), mask.count());
                    prop_assert_eq!(mask.counts_by_channel().iter().sum::<usize>(), mask.count());
                    let text = serde_json::to_string(&mask).expect("JSON");
                    prop_assert_eq!(serde_json::from_str::<ActivationMask>(&text).expect("a mask"), mask);
                }
            }
        }
    }
}
