//! `copriv fuse`: each linear block into one convolution.

use crate::args::Fuse;
use crate::terminal::Terminal;
use anyhow::{Result, ensure};
use copriv_ir::Checkpoint;

/// Largest relative difference of logits that counts as the same network.
pub const TOLERANCE: f32 = 1e-4;

pub fn run(args: &Fuse, terminal: &Terminal) -> Result<()> {
    let checkpoint = Checkpoint::read(&args.checkpoint)?;
    let fused = copriv_reparam::fuse(&checkpoint)?;
    if let Some(images) = args.verify {
        ensure!(images > 0, "--verify needs at least one image");
        let verification = copriv_reparam::verify_on_noise(&checkpoint, &fused, images, 0);
        terminal.say(&verification);
        ensure!(
            verification.max_relative < TOLERANCE,
            "the fused logits differ by {:.2e} relative; nothing was written",
            verification.max_relative
        );
    }
    fused.write(&args.out)?;
    terminal.say(format_args!("{fused}\nwritten to  {}", args.out.display()));
    Ok(())
}
