//! `copriv fuse`: linear runs into single convolutions.

use crate::args::{CountName, Fuse};
use crate::commands::blocks::Blocks;
use crate::commands::equalise;
use crate::format;
use crate::terminal::Terminal;
use anyhow::{Result, ensure};
use copriv_ir::Checkpoint;
use copriv_reparam::{EqualisationReport, FuseConfig, LayerNoise, fuse_equalised};

/// Seed of the random images that `--verify` compares on.
const SEED: u64 = 0;

pub fn run(args: &Fuse, terminal: &Terminal) -> Result<()> {
    let checkpoint = Checkpoint::read(&args.checkpoint)?;
    let config = match args.count {
        CountName::Copriv => FuseConfig::COPRIV,
        CountName::Cryptflow2 => FuseConfig::CRYPTFLOW2,
        CountName::Fewest => FuseConfig::FEWEST,
    };
    let is_needed = args.equalise || args.report;
    let equalised = is_needed.then(|| fuse_equalised(&checkpoint, &config, args.weight_bits));
    let equalised = equalised.transpose()?;
    if let Some((equalised, report)) = &equalised {
        if args.report {
            let blocks = Blocks::new(equalised, Some(checkpoint.gates()));
            terminal.data(blocks.table())?;
            terminal.data(blocks.legend())?;
            terminal.data(noise_table(report))?;
        }
        equalise::tell(report, terminal);
    }
    let fused = match equalised {
        Some((equalised, _)) if args.equalise => equalised,
        _ => copriv_reparam::fuse_with(&checkpoint, &config)?,
    };
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

/// Signal-to-noise ratios in decibels, the mean over a layer's output channels.
fn noise_table(report: &EqualisationReport) -> comfy_table::Table {
    let cells = |name: &str, ratio: &dyn Fn(fn(&LayerNoise) -> f64) -> f64| {
        let decibels = |pick| format!("{:.1}", ratio(pick));
        vec![
            name.to_owned(),
            decibels(|layer| layer.before.channels),
            decibels(|layer| layer.after.channels),
            decibels(|layer| layer.per_channel.channels),
        ]
    };
    let rows = report.layers.iter().map(|layer| cells(&layer.layer, &|pick| pick(layer)));
    let mean = cells("mean", &|pick| report.mean(pick));
    let header = [
        format!("SNR in dB, {} bits", report.weight_bits),
        "as fused".into(),
        "equalised".into(),
        "scale a channel".into(),
    ];
    format::table(header.to_vec(), rows.chain([mean]), [1, 2, 3])
}
