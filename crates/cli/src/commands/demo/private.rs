//! Server and client as two processes, and what came out of them.

use crate::picture;
use crate::terminal::Terminal;
use anyhow::{Context as _, Result, ensure};
use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{Phase, Plan, ServerWeights, Traffic, cost};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// One line of `copriv infer --json`.
#[derive(Deserialize)]
pub struct Answer {
    pub top: Vec<Guess>,
    pub logits: Vec<f64>,
    pub comm: BTreeMap<Phase, Traffic>,
    pub seconds: BTreeMap<Phase, f64>,
}

#[derive(Deserialize)]
pub struct Guess {
    pub label: Option<String>,
}

/// The answers to a plan's images.
pub struct PrivateRun {
    pub answers: Vec<Answer>,
}

/// Starts a server for the plan in `folder` and a client for `pictures`, both this program.
///
/// # Errors
/// Where one of them cannot be started or fails.
pub fn run_privately(
    folder: &Path,
    pictures: &[PathBuf],
    terminal: &Terminal,
) -> Result<PrivateRun> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let (mut server, address) = Server::start(&program, folder)?;
    terminal.detail(format_args!("server: process {}, {address}", server.0.id()));

    let client = Command::new(&program)
        .args(terminal.flags())
        .args(["infer", "--json", "--connect", &address, "--plan"])
        .arg(folder.join(copriv_ir::Plan::FILE))
        .args(pictures)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the client")?;
    ensure!(client.status.success(), "the client failed");
    let status = server.0.wait().context("cannot wait for the server")?;
    ensure!(status.success(), "the server failed");

    let lines = String::from_utf8(client.stdout)?;
    let answers: Vec<Answer> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(answers.len() == pictures.len(), "the client answered {} images", answers.len());
    Ok(PrivateRun { answers })
}

impl PrivateRun {
    /// Whether the private logits are the plan's, bit for bit or, where truncations round at random, no farther off than chance
    /// takes them in the clear; and whether the traffic is what was predicted.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, plan: &Plan, weights: &ServerWeights, pictures: &[PathBuf]) -> Result<()> {
        let mut session = cost::SessionCost::new(plan);
        let setup = session.setup();
        for (number, (answer, path)) in self.answers.iter().zip(pictures).enumerate() {
            let image = picture::read(path, plan.input())?;
            let is_right = answers_to(plan, weights, &image, &answer.logits)?;
            ensure!(is_right, "{}: private and clear logits differ", path.display());
            let predicted = session.inference(plan);
            for phase in Phase::ALL {
                let measured = answer.comm.get(&phase).copied().unwrap_or_default();
                let expected = match (phase, number) {
                    (Phase::Setup, 0) => setup.total(phase),
                    _ => predicted.total(phase),
                };
                ensure!(
                    measured == expected,
                    "{phase} traffic was {measured:?}, predicted {expected:?}"
                );
            }
        }
        Ok(())
    }

    /// Seconds of one phase, mean over the images.
    pub fn seconds(&self, phase: Phase) -> f64 {
        let all = self.answers.iter().filter_map(|answer| answer.seconds.get(&phase));
        all.sum::<f64>() / self.answers.len().max(1) as f64
    }

    /// How many images got the label that stands in their file's name.
    pub fn right(&self, pictures: &[PathBuf]) -> usize {
        let is_right = |(answer, path): (&Answer, &PathBuf)| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let label = answer.top.first().and_then(|guess| guess.label.as_deref());
            label.is_some_and(|label| name.ends_with(&format!("_{label}")))
        };
        self.answers.iter().zip(pictures).filter(|&pair| is_right(pair)).count()
    }
}

/// Whether logits may be a plan's: each as far from those in the clear as some of these are from each other, which is not at all
/// where nothing rounds at random.
fn answers_to(plan: &Plan, weights: &ServerWeights, image: &[f32], found: &[f64]) -> Result<bool> {
    const SEEDS: u64 = 16;
    let clear = |seed| -> Result<Vec<f64>> {
        Ok(PlanEvaluator::new(plan, weights)?.with_seed(seed).logits_f64(image))
    };
    let clear: Vec<Vec<f64>> = (0..SEEDS).map(clear).collect::<Result<_>>()?;
    let is_right = |(place, logit): (usize, &f64)| {
        let column = || clear.iter().map(|logits| logits[place]);
        let (min, max) = (column().fold(f64::MAX, f64::min), column().fold(f64::MIN, f64::max));
        let room = max - min;
        (min - room..=max + room).contains(logit)
    };
    Ok(found.len() == clear[0].len() && found.iter().enumerate().all(is_right))
}

/// A server process; ended when dropped before its time.
struct Server(Child);

impl Server {
    /// Starts it on a free port; its address is the first line that it prints.
    fn start(program: &Path, folder: &Path) -> Result<(Self, String)> {
        let mut child = Command::new(program)
            .args(["--quiet", "serve", "--listen", "127.0.0.1:0", "--sessions", "1"])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let stdout = child.stdout.take();
        let server = Self(child);
        let mut line = String::new();
        BufReader::new(stdout.context("the server has no output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").map(str::to_owned);
        Ok((server, address.context("the server did not say where it listens")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After a success it has ended already, and there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
