//! `copriv import`: PyTorch weights in.

use super::init;
use crate::args::Import;
use crate::datasets;
use crate::terminal::Terminal;
use anyhow::Result;
use copriv_ir::Imported;

pub fn run(args: &Import, terminal: &Terminal) -> Result<()> {
    let mut network = init::network(&args.network)?;
    if let Some(name) = &args.dataset {
        let manifest = datasets::find(name)?;
        network = network.with_statistics(manifest.mean, manifest.std)?;
        network = network.with_labels(manifest.classes)?;
    }
    let naming = args.naming.map(Into::into);
    let is_pth = args.weights.extension().is_some_and(|name| name == "pth" || name == "pt");
    let import = if is_pth { copriv_trainer::import_pth } else { copriv_ir::import_safetensors };
    let imported = import(&args.weights, &network, naming)?;
    let Imported { checkpoint, naming, prefix, folded } = &imported;
    checkpoint.write(&args.out)?;
    terminal.say(format_args!("{checkpoint}\nwritten to  {}", args.out.display()));
    let under = if prefix.is_empty() { String::new() } else { format!(" under {prefix:?}") };
    terminal.say(format_args!("names       {naming}{under}"));
    if !folded.is_empty() {
        terminal.say(format_args!(
            "folded      {} batch norms come folded: they add a bias and nothing else",
            folded.len()
        ));
    }
    Ok(())
}
