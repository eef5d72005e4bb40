//! `copriv init`: a checkpoint with random weights.

use crate::args::{ActivationName, Init, NetworkArgs};
use crate::terminal::Terminal;
use anyhow::Result;
use copriv_ir::{Activation, BatchNormInit, Checkpoint, Network};

pub fn run(args: &Init, terminal: &Terminal) -> Result<()> {
    let network = network(&args.network)?;
    let checkpoint = Checkpoint::initialise(network, args.seed, BatchNormInit::Identity);
    checkpoint.write(&args.out)?;
    terminal.say(format_args!("{checkpoint}\nwritten to  {}", args.out.display()));
    Ok(())
}

/// The network that the arguments describe.
pub fn network(args: &NetworkArgs) -> Result<Network> {
    let activation = match args.activation {
        ActivationName::Relu => Activation::Relu,
        ActivationName::Relu6 => Activation::Relu6,
    };
    let network = Network::new(args.network.parse()?, args.width, args.classes, args.resolution)?;
    Ok(network.with_activation(activation).with_final_activation(!args.no_final_activation))
}
