//! Linear steps: the correlation made offline, the masked input online.

mod lanes;
mod lattice;
mod ot;
mod pads;
mod single;
mod step;
mod transfer;

pub(crate) use lattice::{
    ClientLattice, ClientLattices, ClientReply, ServerLattice, ServerLattices, ServerReply,
};
pub(crate) use step::{ClientLinear, LinearLayer, Openings, ServerLinear};
