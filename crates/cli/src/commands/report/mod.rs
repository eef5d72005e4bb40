//! `copriv report`: training runs, fused models and plans on one page that needs no network.

mod content;
mod gather;
mod page;

pub use gather::EVALUATION;

use crate::args::Report;
use crate::terminal::Terminal;
use anyhow::{Context as _, Result, ensure};
use content::Content;
use std::path::Path;

pub fn run(args: &Report, terminal: &Terminal) -> Result<()> {
    let content = gather::gather(&args.runs, terminal)?;
    ensure!(
        !content.is_empty(),
        "found no training run (metrics.jsonl), fused model or plan in what was given"
    );
    write(&content, &args.out)?;
    terminal.say(format_args!("{content}"));
    terminal.say(format_args!("written to  {}", args.out.display()));
    Ok(())
}

/// The page of everything in a folder, for commands that leave results of several stages in one.
///
/// # Errors
/// As [`run`].
pub fn write_for(folder: &Path, out: &Path, terminal: &Terminal) -> Result<()> {
    write(&gather::gather(&[folder.to_owned()], terminal)?, out)
}

fn write(content: &Content, out: &Path) -> Result<()> {
    let page = page::render(content)?;
    std::fs::write(out, page).with_context(|| format!("cannot write {}", out.display()))
}
