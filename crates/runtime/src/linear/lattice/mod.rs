//! Correlations from lattices: one message from the client for each step, and no reply.
//!
//! | server: `u`, `W` | | client: fresh secrets `s`, hint `H` |
//! |---|---|---|
//! | | | `T = -floor(H s 2^l / q)`; draws `s` again where an output is at risk |
//! | | `<-` carriers `b0`, low bits of `b` | `R = -floor(b 2^l / q)` |
//! | `S = floor((W b + u b0) 2^l / q)` | | |
//!
//! Each message begins with a digest of the session, the inference, the step and what follows: one that was sent before,
//! or elsewhere, or damaged on its way, is refused.
//!
//! The secrets of an inference follow from 32 bytes of the operating system that are never stored, so that no crash,
//! copy or second process can bring them back.

mod client;
mod server;

pub(crate) use client::ClientLattice;
pub(crate) use server::ServerLattice;

use copriv_ir::lattice::UPLOAD_TAG;
use copriv_ir::{Digest, StepId};

/// What the upload of a step begins with in the inference of this name.
fn tag(name: Digest, step: StepId, content: &[u8]) -> [u8; UPLOAD_TAG] {
    let digest = Digest::of([name.bytes(), &(step.0 as u64).to_le_bytes()[..], content]);
    *digest.bytes().first_chunk().expect("a digest is longer than a tag")
}
