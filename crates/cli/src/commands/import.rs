//! `copriv import`: PyTorch weights in.

use super::init;
use crate::args::Import;
use crate::datasets;
use crate::terminal::Terminal;
use anyhow::Result;

pub fn run(args: &Import, terminal: &Terminal) -> Result<()> {
    let mut network = init::network(&args.network)?;
    if let Some(name) = &args.dataset {
        let manifest = datasets::find(name)?;
        network = network.with_statistics(manifest.mean, manifest.std)?;
        network = network.with_labels(manifest.classes)?;
    }
    let checkpoint = copriv_ir::import_safetensors(&args.weights, &network)?;
    checkpoint.write(&args.out)?;
    terminal.say(format_args!("{checkpoint}\nwritten to  {}", args.out.display()));
    Ok(())
}
