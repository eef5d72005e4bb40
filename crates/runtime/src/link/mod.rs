//! Slow networks, simulated: in real time around any [`Transport`](crate::Transport) or between two processes, or on
//! clocks of the parties' own.
//!
//! A link has a bandwidth each way and a delay, as a [`NetworkProfile`](copriv_ir::NetworkProfile) says, and is full
//! duplex. [`LinkTransport`] and [`relay`] hold bytes back for as long as such a link would; with
//! [`SimulatedTransport`] nobody waits: each message carries the time at which it would have arrived, and the parties'
//! clocks follow. That is exact where computing takes no time, and says the same on any machine.

mod pace;
mod relay;
mod shaped;
mod simulated;

pub use pace::{Pace, Passage};
pub use relay::relay;
pub use shaped::{LinkTransport, LinkWriter};
pub use simulated::{SimulatedClock, SimulatedReader, SimulatedTransport, SimulatedWriter};
