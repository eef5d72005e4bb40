//! What the program says: talk and progress on stderr, data on stdout.

use crate::args::Global;
use clap::ColorChoice;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Display;
use std::io::Write as _;
use std::time::Duration;

/// How loud to be, and in colour or not.
#[derive(Clone)]
pub struct Terminal {
    verbose: bool,
    quiet: bool,
}

impl Terminal {
    pub fn new(global: &Global) -> Self {
        let choice = match global.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        Self { verbose: global.verbose, quiet: global.quiet }
    }

    /// The options that make another `copriv` process as loud as this one.
    pub fn flags(&self) -> &'static [&'static str] {
        match (self.quiet, self.verbose) {
            (true, _) => &["--quiet"],
            (false, true) => &["--verbose"],
            (false, false) => &[],
        }
    }

    /// Data: a line on stdout.
    ///
    /// # Errors
    /// Where stdout is closed or full.
    pub fn data(&self, text: impl Display) -> std::io::Result<()> {
        writeln!(anstream::stdout(), "{text}")
    }

    /// Talk: a line on stderr.
    pub fn say(&self, text: impl Display) {
        if !self.quiet {
            self.line(text);
        }
    }

    /// Talk that is only of interest with `--verbose`.
    pub fn detail(&self, text: impl Display) {
        if self.verbose {
            self.line(text);
        }
    }

    /// A warning: said unless quiet.
    pub fn warn(&self, text: impl Display) {
        self.say(format_args!("\x1b[1;33mwarning\x1b[0m: {text}"));
    }

    /// An error with its causes: always said.
    pub fn error(&self, error: &anyhow::Error) {
        self.line(format_args!("\x1b[1;31merror\x1b[0m: {error:#}"));
    }

    /// A bar over `length` units of work; drawn only on a terminal and unless quiet.
    pub fn bar(&self, label: &str, length: u64) -> ProgressBar {
        const TEMPLATE: &str =
            "{prefix:>12} [{bar:32}] {percent:>3}% {elapsed_precise}<{eta} {msg}";
        self.styled(ProgressBar::new(length), TEMPLATE, label)
    }

    /// A bar over `length` bytes.
    pub fn byte_bar(&self, label: &str, length: u64) -> ProgressBar {
        const TEMPLATE: &str =
            "{prefix:>12} [{bar:32}] {bytes:>10}/{total_bytes} {bytes_per_sec} {eta} {msg}";
        self.styled(ProgressBar::new(length), TEMPLATE, label)
    }

    fn styled(&self, bar: ProgressBar, template: &str, label: &str) -> ProgressBar {
        if self.quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_prefix(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// stderr may be closed; there is nobody left to tell then.
    fn line(&self, text: impl Display) {
        let _ = writeln!(anstream::stderr(), "{text}");
    }
}
