//! Training: from a network and a data set to a checkpoint with chosen gates.

pub mod data;
pub mod model;
