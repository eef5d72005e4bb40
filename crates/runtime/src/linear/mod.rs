//! Linear steps: the correlation made offline, the masked input online.

mod ot;
mod pads;
mod transfer;

