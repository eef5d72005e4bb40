//! `copriv`: the command line over the whole toolchain.
//!
//! Data goes to stdout, talk and progress to stderr. Exit status 0, 1 (failed), 2 (usage) or, of `train`, 75 (stopped).

mod args;
mod artefact;
mod commands;
mod datasets;
mod format;
mod interrupt;
mod memory;
mod picture;
mod terminal;

use args::{Cli, Command};
use clap::Parser as _;
use std::process::ExitCode;
use terminal::Terminal;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = Terminal::new(&cli.global);
    match run(cli, &terminal) {
        Ok(status) => status,
        Err(error) => {
            terminal.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    if let Some(threads) = cli.global.threads {
        anyhow::ensure!(threads > 0, "--threads must be at least 1");
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    match cli.command {
        Command::Demo(args) => commands::demo::run(&args, terminal),
        Command::Data(args) => commands::data::run(&args, terminal),
        Command::Train(args) => return commands::train::run(&args, terminal),
        Command::Init(args) => commands::init::run(&args, terminal),
        Command::Prune(args) => commands::prune::run(&args, terminal),
        Command::Equalise(args) => commands::equalise::run(&args, terminal),
        Command::Import(args) => commands::import::run(&args, terminal),
        Command::Export(args) => commands::export::run(&args, terminal),
        Command::Fuse(args) => commands::fuse::run(&args, terminal),
        Command::Compile(args) => commands::compile::run(&args, terminal),
        Command::Inspect(args) => commands::inspect::run(&args, terminal),
        Command::Eval(args) => commands::eval::run(&args, terminal),
        Command::Serve(args) => commands::serve::run(&args, terminal),
        Command::Prepare(args) => commands::prepare::run(&args, terminal),
        Command::Infer(args) => commands::infer::run(&args, terminal),
        Command::Report(args) => commands::report::run(&args, terminal),
        Command::Bench(args) => {
            commands::bench::run(&args, cli.global.threads.unwrap_or(1), terminal)
        }
        Command::Completions(args) => commands::completions::run(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}
