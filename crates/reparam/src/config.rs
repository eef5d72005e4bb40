//! What fusing counts when several convolutions could be one.

use copriv_ir::cost::oracle::{Bytes, Method, Oracle};
use copriv_ir::{ConvGeometry, Shape};
use serde::Serialize;

/// Settings of [`crate::fuse_with`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FuseConfig {
    /// What is made small.
    pub count: Count,
}

/// What a network costs, for the choice between one large convolution and several small ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Count {
    /// Bytes of both phases by the literature's formulae, each convolution with the truncation
    /// after it.
    Bytes {
        /// The formulae's ring.
        oracle: Oracle,
        /// How convolutions are computed.
        method: Method,
    },
    /// The convolutions themselves: for protocols whose bytes do not grow with multiplications.
    Convolutions,
}

impl FuseConfig {
    /// Bytes as CoPriv's protocol sends them.
    pub const COPRIV: Self = Self::bytes(Method::WinogradStride2);
    /// Bytes as CrypTFlow2 sends them.
    pub const CRYPTFLOW2: Self = Self::bytes(Method::CrypTFlow2);
    /// As few convolutions as possible.
    pub const FEWEST: Self = Self { count: Count::Convolutions };

    const fn bytes(method: Method) -> Self {
        Self { count: Count::Bytes { oracle: Oracle::PAPER, method } }
    }

    /// The cost of one convolution on a map of shape `input`.
    pub(crate) fn cost(&self, geometry: &ConvGeometry, input: Shape) -> f64 {
        match &self.count {
            Count::Bytes { oracle, method } => {
                Bytes::total(oracle.linear(*method, geometry, input))
            }
            Count::Convolutions => 1.0,
        }
    }

    /// How it is recorded in the fused model.
    pub(crate) fn settings(&self) -> serde_json::Value {
        #[derive(Serialize)]
        #[serde(rename_all = "snake_case", tag = "count")]
        enum Settings {
            Bytes { method: String, lambda: u32, bits: u32, scale: u32 },
            Convolutions,
        }
        serde_json::json!(match self.count {
            Count::Bytes { oracle: Oracle { lambda, bits, scale }, method } => {
                Settings::Bytes { method: format!("{method:?}"), lambda, bits, scale }
            }
            Count::Convolutions => Settings::Convolutions,
        })
    }
}

impl Default for FuseConfig {
    fn default() -> Self {
        Self::COPRIV
    }
}
