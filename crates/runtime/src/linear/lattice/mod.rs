//! Correlations from lattices: one message from the client for each step, and no reply.
//!
//! | server: `u`, `W` | | client: fresh secrets `s`, hint `H` |
//! |---|---|---|
//! | | | `T = -floor(H s 2^l / q)`; draws `s` again where an output is at risk |
//! | | `<-` carriers `b0`, low bits of `b` | `R = -floor(b 2^l / q)` |
//! | `S = floor((W b + u b0) 2^l / q)` | | |
//!
//! The secrets of an inference follow from 32 bytes of the operating system that are never stored, so that no crash,
//! copy or second process can bring them back.

mod client;
mod server;

pub(crate) use client::ClientLattice;
pub(crate) use server::ServerLattice;
