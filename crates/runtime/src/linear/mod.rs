//! Linear steps: the correlation made offline, the masked input online.

mod ot;
mod transfer;
