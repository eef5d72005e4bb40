//! `copriv export`: weights out, for other tools.

use crate::args::{Export, ExportFormatName};
use crate::artefact::Artefact;
use crate::terminal::Terminal;
use anyhow::{Result, bail};
use copriv_ir::{ExportFormat, export_checkpoint, export_fused};

pub fn run(args: &Export, terminal: &Terminal) -> Result<()> {
    let format = match args.format {
        ExportFormatName::Safetensors => ExportFormat::Safetensors,
        ExportFormatName::Onnx => ExportFormat::Onnx,
    };
    match Artefact::open(&args.artefact)? {
        Artefact::Checkpoint(checkpoint) => {
            let (mask, parts) = (checkpoint.gates().mask(), checkpoint.gates().parts());
            let is_pruned = mask.contains('0') || !parts.is_empty();
            if format == ExportFormat::Safetensors && is_pruned {
                terminal.warn(format_args!(
                    "the gates {mask} and the masks of {} activations are in the file's metadata alone: a network \
                     that ignores them computes something else; fuse first, or export ONNX",
                    parts.len()
                ));
            }
            export_checkpoint(&checkpoint, format, &args.out)?;
        }
        Artefact::Fused(model) => export_fused(&model, format, &args.out)?,
        Artefact::Plan(_) => bail!(
            "{} is a plan, whose weights are integers of a protocol; export its fused model or checkpoint",
            args.artefact.display()
        ),
    }
    terminal.say(format_args!("written to  {}", args.out.display()));
    Ok(())
}
