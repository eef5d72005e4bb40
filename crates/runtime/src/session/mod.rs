//! Sessions: a client and a server execute a plan, any number of times.
//!
//! | client | | server |
//! |---|---|---|
//! | [`ClientSession::connect`] | `<->` handshake | [`ServerSession::accept`] |
//! | | `->` `Setup`, `<->` base OTs | [`ServerSession::serve`] |
//! | [`ClientSession::prepare`] | `->` `Prepare`, `<->` each step's correlation | |
//! | [`ClientSession::infer`] | `->` `Infer`, `<->` each step | |
//! | [`ClientSession::goodbye`] | `->` `Goodbye` | |
//!
//! Preparing does not need the image, and several inferences can be prepared before any is run. What is prepared
//! may also wait in both parties' stores, beyond the session:
//!
//! | client | | server |
//! |---|---|---|
//! | [`ClientSession::connect_stored`] | `<->` handshake, `Store` | [`ServerSession::accept`], [`ServerSession::with_store`] |
//! | [`ClientSession::prepare_stored`] | `<->` `Setup` once, `Keep`, each step's correlation, `Kept` | [`ServerSession::serve`] |
//! | [`ClientSession::infer_stored`] | `->` `Claim`, `<-` `Granted`, `<->` each step | |

mod client;
mod handshake;
mod inference;
mod offline;
mod online;
mod role;
mod server;
mod stored;
mod transfers;

pub use client::{ClientSession, InferError, Prepared};
pub use handshake::PROTOCOL_VERSION;
pub use inference::Inference;
pub use server::ServerSession;
pub use stored::Kept;

use crate::{Channel, Control, RuntimeError};
use copriv_ir::{Phase, StepId};

/// Inferences that a server keeps prepared for one client.
pub const MAX_PREPARED: usize = 64;

/// Called while an inference goes on: the phase, the step, and the payload bytes of this inference so far, both
/// directions together, without the session's setup.
pub type Progress<'a> = &'a mut dyn FnMut(Phase, StepId, u64);

/// Tells the peer that a call failed, unless it was the peer that failed.
fn abort<T>(channel: &mut Channel, result: Result<T, RuntimeError>) -> Result<T, RuntimeError> {
    result.inspect_err(|error| {
        let peer_is_gone =
            matches!(error, RuntimeError::ConnectionLost { .. } | RuntimeError::PeerAborted { .. });
        if !peer_is_gone {
            // The error that is already on its way to the caller says more than a failure to tell it.
            let _ = channel.send_control(Control::Abort);
        }
    })
}

#[cfg(test)]
mod tests;
