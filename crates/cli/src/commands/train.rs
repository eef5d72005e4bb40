//! `copriv train`: a network as a configuration file says.

use crate::args::Train;
use crate::terminal::Terminal;
use crate::{datasets, format, interrupt, memory};
use anyhow::{Context as _, Result};
use copriv_trainer::train::{
    EpochMetrics, Observer, SearchMetrics, Stage, StepMetrics, TrainConfig, TrainOutcome,
    TrainingData,
};
use indicatif::{HumanDuration, ProgressBar};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

pub fn run(args: &Train, terminal: &Terminal) -> Result<ExitCode> {
    let text = std::fs::read_to_string(&args.config)
        .with_context(|| format!("cannot read {}", args.config.display()))?;
    let mut settings = args.set.clone();
    if let Some(device) = &args.device {
        settings.push(format!("device={device:?}"));
    }
    let config = TrainConfig::parse(&text, &args.config.display().to_string(), &settings)?;
    let name = args.config.file_stem().unwrap_or_default();
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("out").join(name));
    let stop = interrupt::stop_flag()?;
    let outcome = train(&config, args.data.as_deref(), &out, args.resume, &stop, terminal)?;
    let status = if outcome.finished {
        terminal.say(format_args!("{}", outcome.checkpoint));
        ExitCode::SUCCESS
    } else {
        terminal.say("stopped; go on with the same command and --resume");
        interrupt::stopped()
    };
    terminal.say(format_args!("written to  {}", outcome.path.display()));
    Ok(status)
}

/// Loads the data and trains, with bars and a line an epoch.
///
/// # Errors
/// Where the data is missing, the configuration does not fit, or training fails.
pub fn train(
    config: &TrainConfig,
    data: Option<&Path>,
    out: &Path,
    resume: bool,
    stop: &AtomicBool,
    terminal: &Terminal,
) -> Result<TrainOutcome> {
    let manifest = datasets::find(&config.data.name)?;
    let root = data.map_or_else(|| PathBuf::from("datasets"), Path::to_owned);
    let data = TrainingData::load(&manifest, &root, &config.data)
        .with_context(|| datasets::remedy(&manifest))?;
    memory::keep_freed();
    let mut progress = Progress::new(terminal);
    let outcome = copriv_trainer::train::run(config, &data, out, resume, &mut progress, stop)?;
    progress.bar.finish_and_clear();
    Ok(outcome)
}

/// Label of the bar of a measurement that has none of its epoch.
const MEASUREMENT: &str = "measure";

/// A bar for each epoch, and a line when it is complete.
struct Progress<'a> {
    terminal: &'a Terminal,
    bar: ProgressBar,
    /// What the bar is for; empty where there is none.
    label: String,
    epochs: usize,
    /// Of the stage, in this run of the program.
    steps: u32,
    began: Instant,
}

impl<'a> Progress<'a> {
    fn new(terminal: &'a Terminal) -> Self {
        let (bar, began) = (ProgressBar::hidden(), Instant::now());
        Self { terminal, bar, label: String::new(), epochs: 0, steps: 0, began }
    }

    /// The bar of this label: a new one, unless it is there.
    fn show(&mut self, label: &str, length: usize) {
        if self.label != label {
            self.bar.finish_and_clear();
            self.bar = self.terminal.bar(label, length as u64);
            self.label = label.into();
        }
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
        self.label.clear();
    }

    /// Time to the end of the stage at the present pace.
    fn remaining(&self, metrics: &StepMetrics) -> Duration {
        let StepMetrics { epoch, step, steps, .. } = *metrics;
        let left = self.epochs.saturating_sub(epoch) * steps + steps.saturating_sub(step);
        let pace = self.began.elapsed().as_secs_f64() / f64::from(self.steps.max(1));
        Duration::from_secs_f64(pace * left as f64)
    }
}

/// A digit for each alpha, 0 for none to 9 for all of it.
fn digits(alphas: &[f32]) -> String {
    let digit = |alpha: &f32| char::from_digit((alpha.clamp(0.0, 1.0) * 9.0).round() as u32, 10);
    alphas.iter().filter_map(digit).collect()
}

impl Observer for Progress<'_> {
    fn stage(&mut self, stage: Stage, epochs: usize, epochs_done: usize) {
        let begins = if epochs_done == 0 { "begins" } else { "goes on" };
        (self.epochs, self.steps, self.began) = (epochs, 0, Instant::now());
        self.terminal.say(format_args!("{stage} {begins}: {} epochs", epochs - epochs_done));
    }

    fn step(&mut self, metrics: &StepMetrics) {
        let StepMetrics { stage, epoch, step, steps, .. } = *metrics;
        self.show(&format!("{stage} {epoch}"), steps);
        self.bar.set_position(step as u64);
        self.steps += 1;
        let StepMetrics { loss, top1, images_per_second, alphas, .. } = metrics;
        let alphas =
            if alphas.is_empty() { String::new() } else { format!(", alphas {}", digits(alphas)) };
        self.bar.set_message(format!(
            "loss {loss:.3}, top-1 {}, {images_per_second:.0} images/s{alphas}, {stage} ends in {}",
            format::percent(*top1),
            HumanDuration(self.remaining(metrics))
        ));
    }

    fn probing(&mut self, done: usize, count: usize) {
        self.show("importance", count);
        self.bar.set_position(done as u64);
    }

    fn chosen(&mut self, metrics: &SearchMetrics) {
        self.finish();
        let SearchMetrics { method, importances, mask, bytes, relus } = metrics;
        let rise = |gate: usize| {
            let of_gate = importances.gates.iter().find(|importance| importance.gate == gate);
            of_gate.map_or("-".into(), |importance| format!("{:.3}", importance.loss_rise))
        };
        let rises: Vec<String> = (0..mask.len()).map(rise).collect();
        self.terminal.say(format_args!(
            "{method}: rise in loss without each gate, from {:.3}: {}",
            importances.complete.loss,
            rises.join(" ")
        ));
        let verb = if method.trains_alphas() { "begins with" } else { "keeps" };
        self.terminal.say(format_args!(
            "{method}: {verb} gates {mask}, {:.2} GB by the formulae, {:.0} thousand activated values",
            bytes.total() / 1e9,
            *relus as f64 / 1e3
        ));
    }

    fn measuring(&mut self, seen: usize, count: usize) {
        if self.label.is_empty() || self.label == MEASUREMENT {
            // The steps of the epoch were made before an interruption.
            self.show(MEASUREMENT, count);
            self.bar.set_position(seen as u64);
        }
        self.bar.set_message(format!("measuring {seen}/{count}"));
    }

    fn epoch(&mut self, metrics: &EpochMetrics) {
        self.finish();
        let EpochMetrics { stage, epoch, epochs, loss, images_per_second, .. } = metrics;
        let kept = metrics.mask.chars().filter(|&digit| digit == '1').count();
        self.terminal.say(format_args!(
            "{stage:>9} {epoch:>3}/{epochs}  loss {loss:.3}  train {:>6}  test {:>6}  {images_per_second:>4.0} images/s  {kept} of {} gates, {:.1} k activated values",
            format::percent(metrics.train_top1),
            format::percent(metrics.top1),
            metrics.mask.len(),
            metrics.relus as f64 / 1e3,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser as _;

    fn step(epoch: usize, step: usize) -> StepMetrics {
        StepMetrics {
            stage: Stage::Search,
            epoch,
            step,
            steps: 9,
            loss: 1.0,
            task_loss: 1.0,
            comm_loss: 0.0,
            top1: 0.5,
            learning_rate: 0.1,
            images_per_second: 100.0,
            alphas: vec![],
        }
    }

    #[test]
    fn a_bar_begins_wherever_a_run_goes_on() {
        let cli = Cli::parse_from(["copriv", "--quiet", "data", "list"]);
        let terminal = Terminal::new(&cli.global);
        let mut progress = Progress::new(&terminal);
        let bar = |progress: &Progress<'_>| {
            (progress.label.clone(), progress.bar.position(), progress.bar.length())
        };
        progress.step(&step(2, 5));
        assert_eq!(bar(&progress), ("search 2".into(), 5, Some(9)));
        progress.step(&step(2, 6));
        progress.measuring(8, 20);
        assert_eq!(
            bar(&progress),
            ("search 2".into(), 6, Some(9)),
            "it stays over the measurement"
        );
        progress.step(&step(3, 1));
        assert_eq!(bar(&progress), ("search 3".into(), 1, Some(9)));

        let mut progress = Progress::new(&terminal);
        for seen in [8, 16] {
            progress.measuring(seen, 20);
            assert_eq!(bar(&progress), ("measure".into(), seen as u64, Some(20)));
        }
        progress.step(&step(3, 1));
        assert_eq!(bar(&progress).0, "search 3");
    }
}
