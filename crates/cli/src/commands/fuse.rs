//! `copriv fuse`: each linear block into one convolution.

use crate::args::Fuse;
use crate::terminal::Terminal;
use anyhow::{Result, ensure};
use copriv_ir::Checkpoint;

/// Seed of the random images that `--verify` compares on.
const SEED: u64 = 0;

pub fn run(args: &Fuse, terminal: &Terminal) -> Result<()> {
    let checkpoint = Checkpoint::read(&args.checkpoint)?;
    let fused = copriv_reparam::fuse(&checkpoint)?;
    if let Some(images) = args.verify {
        ensure!(images > 0, "--verify needs at least one image");
        let verification = copriv_reparam::verify_random(&checkpoint, &fused, images, SEED);
        ensure!(verification.is_good(), "{verification}; nothing was written");
        terminal.say(verification);
    }
    fused.write(&args.out)?;
    terminal.say(format_args!("{fused}\nwritten to  {}", args.out.display()));
    Ok(())
}
