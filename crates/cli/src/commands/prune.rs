//! `copriv prune`: set the gates of a checkpoint by hand.

use crate::args::Prune;
use crate::terminal::Terminal;
use anyhow::{Result, anyhow};
use copriv_ir::{Checkpoint, Gates, Provenance};
use serde_json::json;

pub fn run(args: &Prune, terminal: &Terminal) -> Result<()> {
    let checkpoint = Checkpoint::read(&args.checkpoint)?;
    let gates = Gates::from_mask(checkpoint.network(), &args.mask)
        .map_err(|fault| anyhow!("--mask {}: {fault}", args.mask))?;
    let config = json!({ "mask": gates.mask() });
    let provenance = Provenance::new("prune", Some(checkpoint.digest()), config, None);
    let (network, tensors) = (checkpoint.network().clone(), checkpoint.tensors().clone());
    let pruned = Checkpoint::new(network, gates, tensors, provenance).map_err(|e| anyhow!(e))?;
    pruned.write(&args.out)?;
    terminal.say(format_args!("{pruned}\nwritten to  {}", args.out.display()));
    Ok(())
}
