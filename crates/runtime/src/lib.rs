//! Private inference between two parties: the line between them, oblivious transfer, protocols, sessions.
//!
//! Messages are those of `docs/protocols.md`, to the byte. Security is semi-honest; whatever a peer sends,
//! nothing here panics.

// The plans of the integration tests serve the tests in here too.
#[cfg(test)]
extern crate self as copriv_runtime;

pub mod channel;
pub mod link;
pub mod nonlinear;
pub mod ot;

pub mod session;
pub mod store;

mod bits;
mod error;
mod linear;
mod threads;

pub use bits::Bits;
pub use channel::{
    Channel, Control, Lane, MemoryTransport, Refusal, TcpTransport, Transport, Waiting,
};
pub use copriv_ir::packing;
pub use error::RuntimeError;
pub use session::{ClientSession, InferError, Inference, Prepared, ServerSession};
pub use threads::Threads;
