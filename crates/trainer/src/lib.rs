//! Training: from a network and a data set to a checkpoint with chosen gates.
//!
//! [`train::run`] goes through the stages of a [`train::TrainConfig`]: plain training, the search for the gates to
//! keep under a communication loss (CoPriv, arXiv 2311.01737), and fine-tuning. [`data`] reads data
//! sets, [`import_pth`] PyTorch's weights, [`model`] holds the network in burn. This crate alone knows burn.

pub mod data;
pub mod device;
mod import;
pub mod model;
mod ops;
pub mod train;

pub use import::import_pth;
