//! Correlations from lattices. With a hint: one message from the client for each step, and no reply.
//!
//! | server: `u`, `W` | | client: fresh secrets `s`, hint `H` |
//! |---|---|---|
//! | | | `T = -floor(H s 2^l / q)`; draws `s` again where an output is at risk |
//! | | `<-` carriers `b0`, low bits of `b` | `R = -floor(b 2^l / q)` |
//! | `S = floor((W b + u b0) 2^l / q)` | | |
//!
//! With a reply, for clients that run once:
//!
//! | server: `W`, fresh `u`, `S`, flood `f` | | client: a fresh secret `s` |
//! |---|---|---|
//! | | `<-` carrier `b0`, low bits of `b` | `R = -floor(b 2^l / q)` |
//! | `c1 = W a + u a0 + e1`, `c0 = W b + u b0 + f - S q / 2^l` | `->` top bits of `c1`, and of `c0` at the outputs | `T = round((c0 - c1 s) 2^l / q)` |
//!
//! Each message begins with a digest of the session, the inference, the step, the sender and what follows: one that was sent before,
//! or elsewhere, or damaged on its way, is refused.
//!
//! The secrets of an inference follow from 32 bytes of the operating system that are never stored, so that no crash,
//! copy or second process can bring them back.

mod client;
mod message;
mod reply;
mod server;

pub(crate) use client::ClientLattice;
pub(crate) use reply::{ClientReply, ServerReply};
pub(crate) use server::ServerLattice;

/// A party's part of the lattice correlations of one inference, of both kinds: none where the plan has none.
pub(crate) struct Lattices<Hinted, Replied> {
    pub hinted: Option<Hinted>,
    pub replied: Option<Replied>,
}

pub(crate) type ServerLattices<'a> = Lattices<ServerLattice<'a>, ServerReply<'a>>;
pub(crate) type ClientLattices<'a> = Lattices<ClientLattice<'a>, ClientReply<'a>>;
