//! Linear correlations from lattices: `S + T = W (*) R` with no reply.
//!
//! The public polynomials `a` are fixed for a plan. The model's *hint* `H = W a + u a0 + e1` is computed once and
//! is public; each inference has fresh ternary secrets `s` of the client, whose *upload* is the low bits of
//! `b = a s + e` (the top bits are the mask `R`, up to sign) and the *carrier* `b0 = a0 s + e0`. The server's `W b + u b0` and the
//! client's `H s` are shares of `W (*) R`, scaled by `q / 2^l`, up to noise: each party rounds on its own.
//! The argument, with every condition, is in `docs/lattice.md`.

mod attach;
mod choose;
mod client;
mod factors;
mod hint;
mod layout;
mod noise;
mod ntt;
mod parameters;
mod public;
mod reply;
mod residue;
mod server;
mod step;
mod stream;
mod ternary;
#[cfg(test)]
mod tests;
mod window;

pub use attach::{LatticeError, attach, attach_reply, candidate};
pub use choose::{Candidate, Choice, NoParameters, choose};
pub use client::{ClientSecrets, Unlucky};
pub use hint::{Hint, HintError};
pub use layout::{Cell, Layout, Tile};
pub use noise::LatticeLayer;
pub use parameters::{DEGREE, LatticeSet, SAFE_DEVIATIONS};
pub use public::Matrix;
pub use reply::{
    ReplyChoice, ReplyKey, ReplyLayer, ReplyMasks, ReplySecret, ReplyStep, Unfit, choose_reply,
};
pub use server::{Carrier, Upload, server_share};
pub use step::{LatticeStep, Shared, UPLOAD_TAG};
pub use stream::{PublicSeed, SecretSeed};
pub use window::Window;

pub(crate) use choose::MOST_SECRETS;
pub(crate) use hint::MAGIC as HINT_MAGIC;
pub(crate) use window::grouped;
