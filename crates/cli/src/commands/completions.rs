//! `copriv completions`: a completion script for a shell.

use crate::args::{Cli, Completions};
use anyhow::Result;
use clap::CommandFactory as _;

pub fn run(args: &Completions) -> Result<()> {
    clap_complete::generate(args.shell, &mut Cli::command(), "copriv", &mut std::io::stdout());
    Ok(())
}
