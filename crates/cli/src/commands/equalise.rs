//! `copriv equalise`: a checkpoint with channels of like size.

use crate::args::Equalise;
use crate::terminal::Terminal;
use anyhow::Result;
use copriv_ir::Checkpoint;
use copriv_reparam::{EqualisationReport, FuseConfig, equalise};

pub fn run(args: &Equalise, terminal: &Terminal) -> Result<()> {
    let checkpoint = Checkpoint::read(&args.checkpoint)?;
    let (equalised, report) = equalise(&checkpoint, &FuseConfig::COPRIV, args.weight_bits)?;
    tell(&report, terminal);
    equalised.write(&args.out)?;
    terminal.say(format_args!("{equalised}\nwritten to  {}", args.out.display()));
    Ok(())
}

/// Says what equalising did, and in detail where it could not.
pub fn tell(report: &EqualisationReport, terminal: &Terminal) {
    for (layer, reason) in &report.skipped {
        terminal.detail(format_args!("{layer} is not equalised: {reason}"));
    }
    terminal.say(report);
}
