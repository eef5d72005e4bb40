//! One step of a plan.

use super::ValueId;
use crate::lattice::{LatticeLayer, ReplyLayer};
use crate::winograd::MinimalFiltering;
use crate::{Activation, ActivationMask, ConvGeometry, Party, PoolWindow, Ring, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Position of a step in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(pub usize);

/// An operation on shared values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its position.
    pub id: StepId,
    /// The layer it belongs to, for people and errors.
    pub name: String,
    /// What it computes.
    pub op: StepOp,
    /// Earlier values, in the operation's order.
    pub inputs: Vec<ValueId>,
    /// The value it makes.
    pub output: ValueId,
}

/// The operations of a plan. Their clear-text meaning is [`crate::evaluate::PlanEvaluator`]'s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StepOp {
    /// The client's normalised image, rounded to the value's scale. No message.
    Input,
    /// Convolution (or fully connected layer) with the server's weights and bias map.
    Linear(LinearStep),
    /// Sum of two values of the same ring and scale. Local.
    Add,
    /// Sum over each channel. Local. The output's scale is the input's plus `ceil(log2 area)`, so for
    /// an area that is a power of two the sum *is* the mean; otherwise the compiler puts
    /// `2^ceil(log2 area) / area` into the next linear step's weights.
    SumPool,
    /// Drops `shift` fractional bits.
    Truncate {
        /// Bits to drop.
        shift: u32,
        /// How, and with which error.
        method: TruncateMethod,
    },
    /// The same number in a wider ring.
    Extend {
        /// The wider ring.
        ring: Ring,
        /// How, and what must be known of the number.
        method: ExtendMethod,
    },
    /// The same number in a narrower ring, in which the compiler has found it to fit. Local.
    Reduce {
        /// The narrower ring.
        ring: Ring,
    },
    /// ReLU or ReLU6.
    Activation {
        /// Which.
        function: Activation,
        /// Its comparisons.
        comparison: Comparison,
        /// The values that it applies to, known to both parties; the others pass as they are. All where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mask: Option<ActivationMask>,
    },
    /// The greatest value of each window of a channel, padding left out. The ring must have room for differences of
    /// values: it always has where they are not negative.
    MaxPool {
        /// The windows.
        window: PoolWindow,
        /// Its comparisons.
        comparison: Comparison,
    },
    /// Which element is the greatest, the first of several: its number in binary, digits from the least significant, each an
    /// element of `Z_2` ([`class_digits`](super::class_digits)). The ring must have room for differences of values, as for
    /// [`Self::MaxPool`].
    #[serde(rename = "argmax")]
    ArgMax {
        /// Its comparisons.
        comparison: Comparison,
    },
    /// Opens a value to the client.
    Reveal,
}

impl StepOp {
    /// Number of inputs.
    #[must_use]
    pub const fn arity(&self) -> usize {
        match self {
            Self::Input => 0,
            Self::Add => 2,
            _ => 1,
        }
    }

    /// The values of an input of shape `input` that it works on: those of a mask, or all.
    #[must_use]
    pub fn count(&self, input: Shape) -> usize {
        match self {
            Self::Activation { mask: Some(mask), .. } => mask.count(),
            _ => input.elements(),
        }
    }

    /// The word for it in reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Linear(_) => "linear",
            Self::Add => "add",
            Self::SumPool => "sum_pool",
            Self::Truncate { method: TruncateMethod::Reduce, .. } => "truncate_reduce",
            Self::Truncate { .. } => "truncate",
            Self::Extend { .. } => "extend",
            Self::Reduce { .. } => "reduce",
            Self::Activation { function: Activation::Relu, .. } => "relu",
            Self::Activation { function: Activation::Relu6, .. } => "relu6",
            Self::MaxPool { .. } => "max_pool",
            Self::ArgMax { .. } => "argmax",
            Self::Reveal => "reveal",
        }
    }
}

/// A linear layer with the server's static weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearStep {
    /// The convolution.
    pub geometry: ConvGeometry,
    /// How it becomes matrix products.
    pub lowering: Lowering,
    /// How the offline correlation is made.
    pub correlation: Correlation,
    /// Fractional bits of the weights.
    pub weight_scale: u32,
    /// Width of the factors on the weights' side of the matrix products: two's complement, after the
    /// filter transform. Their bits are OT choices where the server chooses.
    pub weight_bits: u32,
}

/// How a convolution becomes matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Lowering {
    /// One product of the weights with the unfolded input (im2col), for each group.
    Direct,
    /// Winograd with tiles aggregated into `(m + r - 1)^2` products for each group; 3x3 kernels at stride 1.
    Winograd(WinogradTile),
    /// 3x3 kernels at stride 2 in four phases of 2x2, 2x1, 1x2 and 1x1 taps, each by Winograd for
    /// 2x2 outputs: 25 products for each group.
    WinogradStride2,
}

/// Winograd's F(m x m, r x r): tiles of `m` x `m` outputs for an `r` x `r` kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WinogradTile {
    /// Outputs along a side.
    pub m: usize,
    /// Taps along a side.
    pub r: usize,
}

impl WinogradTile {
    /// F(2x2, 3x3): 16 products for four outputs instead of 36, all matrices with integer entries
    /// once the filter transform is doubled.
    pub const F2X2_3X3: Self = Self { m: 2, r: 3 };

    /// F(4x4, 3x3): 36 products for sixteen outputs instead of 144. Its matrices have integer entries up to
    /// inverses of odd numbers: see [`crate::winograd::MinimalFiltering::F4_3`].
    pub const F4X4_3X3: Self = Self { m: 4, r: 3 };

    /// Multiplications along a side: `m + r - 1`.
    #[must_use]
    pub const fn products(self) -> usize {
        self.m + self.r - 1
    }
}

/// A batch of matrix products `(m x k)(k x n)`, weights on the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatMulShape {
    /// Number of independent products.
    pub count: usize,
    /// Rows of the weights: output channels.
    pub m: usize,
    /// Inner dimension.
    pub k: usize,
    /// Columns of the activations: positions or tiles.
    pub n: usize,
}

impl Lowering {
    /// The matrix products of this lowering; `None` where it does not fit the convolution.
    #[must_use]
    pub fn mat_mul(self, geometry: &ConvGeometry, input: Shape) -> Option<MatMulShape> {
        let output = geometry.output_shape(input);
        let ConvGeometry { in_channels, out_channels, kernel, stride, groups, .. } = *geometry;
        if self == Self::Direct {
            return Some(MatMulShape {
                count: groups,
                m: out_channels / groups,
                k: geometry.fan_in(),
                n: output.area(),
            });
        }
        let algorithm = MinimalFiltering::of(self)?;
        let (side, step) = (algorithm.outputs(), algorithm.step);
        ((kernel, stride * side) == (3, step)).then(|| MatMulShape {
            count: algorithm.products().pow(2) * groups,
            m: out_channels / groups,
            k: in_channels / groups,
            n: output.height.div_ceil(side) * output.width.div_ceil(side),
        })
    }

    /// Fractional bits that the lowering adds to the product: 2 for Winograd at stride 1, whose transforms
    /// multiply every output by four.
    #[must_use]
    pub const fn extra_scale(self) -> u32 {
        match self {
            Self::Direct | Self::WinogradStride2 => 0,
            Self::Winograd(_) => 2,
        }
    }
}

impl fmt::Display for Lowering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Winograd(WinogradTile { m, r }) => write!(f, "winograd F({m}x{m},{r}x{r})"),
            Self::WinogradStride2 => f.write_str("winograd stride 2"),
        }
    }
}

/// How the correlation of a linear step is made offline. The online phase does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Correlation {
    /// Oblivious transfers, one for each bit of one factor.
    Ot {
        /// The OT extension.
        kind: OtKind,
        /// Whose bits are the choices: the server's weights or the client's mask.
        chooser: Party,
    },
    /// Module-LWE with a public hint: one message from the client and no reply.
    Lattice(LatticeLayer),
    /// Ring-LWE without a hint: a message from the client and a reply.
    Reply(ReplyLayer),
}

/// An OT extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtKind {
    /// Ishai, Kilian, Nissim, Petrank (CRYPTO 2003): 128 bits a transfer; 1-of-N transfers after
    /// Kolesnikov and Kumaresan (CRYPTO 2013).
    Iknp,
    /// SoftSpoken (Roy, CRYPTO 2022) over GF(2^2): 64 bits a transfer.
    SoftSpoken2,
    /// SoftSpoken over GF(2^4): 32 bits a transfer.
    SoftSpoken4,
    /// SoftSpoken over GF(2^8): 16 bits a transfer, at eight times the computation.
    SoftSpoken8,
    /// Ferret (Yang, Weng, Lan, Zhang, Wang, CCS 2020): less than a bit a transfer, made in bulk.
    Silent,
}

impl OtKind {
    /// All of them, from the dearest in bytes.
    pub const ALL: [Self; 5] =
        [Self::Iknp, Self::SoftSpoken2, Self::SoftSpoken4, Self::SoftSpoken8, Self::Silent];

    /// The name in plans and settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iknp => "iknp",
            Self::SoftSpoken2 => "softspoken2",
            Self::SoftSpoken4 => "softspoken4",
            Self::SoftSpoken8 => "softspoken8",
            Self::Silent => "silent",
        }
    }
}

impl fmt::Display for OtKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a step compares secret numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The OT extension behind its transfers and triples.
    pub ot: OtKind,
    /// Bits of a digit, 1 to 4: leaves are 1-of-2^`leaf_bits` transfers.
    pub leaf_bits: u32,
    /// Whether leaves are one-time truth tables, made offline: `leaf_bits` bits each way and one round
    /// online, for far more bytes offline.
    #[serde(default)]
    pub tables: bool,
}

/// A truncation protocol.
///
/// All but [`Self::Faithful`] round at random to one of the two neighbours of `x / 2^shift`, to the upper one with the
/// probability of the fraction: on average nothing is lost, and multiples of `2^shift` are exact. Between the
/// parties the chance is that of the server's share `x0`, which rounds up where the client's rounds down: the result
/// is the upper neighbour where `0 < x0 mod 2^shift <= x mod 2^shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TruncateMethod {
    /// Exactly the arithmetic shift: rounds towards minus infinity (CrypTFlow2, section 4). A comparison of the ring's
    /// width, one of `shift` bits.
    Faithful(Comparison),
    /// One comparison of the ring's width.
    OneOff(Comparison),
    /// For numbers that are not negative: one correlated transfer of `shift` bits instead of a comparison (SIRNN, S&P 2021;
    /// Cheetah, USENIX Security 2022).
    KnownSign(OtKind),
    /// Truncate and reduce: the result is in the ring of `shift` bits less. Local.
    Reduce,
}

/// A protocol that takes numbers to a wider ring. All are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ExtendMethod {
    /// Any number: a comparison of the narrower ring's width.
    Compare(Comparison),
    /// Numbers that are not negative: one correlated transfer of the added bits.
    KnownSign(OtKind),
    /// Numbers from `-2^(l-2)` to `2^(l-2) - 1`, `l` the width of the narrower ring: not negative once `2^(l-2)` is
    /// added. That they are so is the compiler's finding; others come out wrong.
    Offset(OtKind),
    /// Numbers that the client alone knows. Local.
    Local,
}
