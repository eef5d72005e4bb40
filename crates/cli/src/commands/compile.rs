//! `copriv compile`: a fused model into a plan and the server's weights.

use crate::args::Compile;
use crate::artefact::{HINT_FILE, WEIGHTS_FILE, read_plan};
use crate::terminal::Terminal;
use crate::{datasets, format};
use anyhow::{Context as _, Result, anyhow, ensure};
use copriv_compiler::{
    Calibration, Compilation, CompileConfig, LatticeSeeds, Precision, Progress, Widened,
    widths_that_hold,
};
use copriv_ir::fixed_point::CALIBRATION_IMAGES;
use copriv_ir::lattice::{PublicSeed, SecretSeed};
use copriv_ir::{FusedModel, NetworkProfile, Phase, Plan, Widths};
use copriv_trainer::data::{Dataset, Split, class_labels};
use indicatif::ProgressBar;
use std::path::Path;
use zeroize::Zeroizing;

/// The same where they also decide how many bits each layer gets: half of them, and some, tell what that costs.
const JUDGING_IMAGES: usize = 512;
/// Images of noise where there is no calibration set, and their seed.
const NOISE: (u64, usize) = (0, 4);

pub fn run(args: &Compile, terminal: &Terminal) -> Result<()> {
    let mut config = CompileConfig::new(args.preset.parse()?);
    if let Some(network) = &args.network {
        config.set_network(NetworkProfile::open(network)?);
    }
    for setting in &args.set {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| anyhow!("--set {setting}: a setting is written KEY=VALUE"))?;
        config.set(key.trim(), value.trim()).with_context(|| format!("--set {setting}"))?;
    }
    let fused = FusedModel::read(&args.fused)?;
    if let Some(path) = &args.widths {
        ensure!(
            config.precision == Precision::Mixed,
            "--widths: the preset {} has the same ring for all values; use --preset fast",
            config.preset.name()
        );
        config.widths = widths_of(path, &fused, terminal)?;
    }
    let calibration = if let Some(name) = &args.calibrate {
        let manifest = datasets::find(name)?;
        let has_budget = config.max_drop.is_some() || config.max_bytes.is_some();
        let usual = if has_budget { JUDGING_IMAGES } else { CALIBRATION_IMAGES };
        let count = args.calibration_images.unwrap_or(usual);
        let images = datasets::load(&manifest, args.data.as_deref(), Split::Train, Some(count))?;
        calibrate(&fused, &images, terminal)?
    } else {
        terminal.warn(
            "ranges are taken from noise: good for studies of cost, not for accuracy; \
             use --calibrate for real images",
        );
        let (seed, count) = NOISE;
        Calibration::from_noise(&fused, seed, count)?
    };

    let compilation = compile(&fused, &calibration, &config, terminal)?;
    terminal.detail(&compilation.report);
    write(&compilation, &args.out)?;
    if let Some(hint) = &compilation.hint {
        let size = format::bytes(hint.size() as u64);
        terminal.say(format_args!("hint        {size}, downloaded once by each client"));
    }
    if let Some(allocation) = &compilation.report.allocation {
        terminal.say(format_args!("bits        {allocation}"));
    }
    terminal.say(format_args!("overflow    {}", compilation.report.overflow()));
    let comm = compilation.plan.predicted_comm();
    terminal.say(format_args!(
        "{}\noffline     {}\nonline      {}\nwritten to  {}",
        compilation.plan,
        format::bytes(comm.total(Phase::Offline).bytes()),
        format::bytes(comm.total(Phase::Online).bytes()),
        args.out.display()
    ));
    if let Some(network) = &config.network {
        let forecast = network.forecast(&compilation.plan);
        let [setup, offline, online] =
            Phase::ALL.map(|phase| format::seconds(forecast.total(phase)));
        terminal.say(format_args!(
            "on {network}\npredicted   {setup} to set up, {offline} offline, {online} online"
        ));
    }
    Ok(())
}

/// The bits that a plan, or that of a folder, was compiled with; more for layers of `fused` whose weights have grown out of them.
fn widths_of(path: &Path, fused: &FusedModel, terminal: &Terminal) -> Result<Widths> {
    let widths = Widths::of_plan(&read_plan(path)?).ok_or_else(|| {
        anyhow!(
            "--widths: {} is no plan of mixed precision; compile one with --preset fast",
            path.display()
        )
    })?;
    let (widths, widened) = widths_that_hold(fused, widths)?;
    for Widened { layer, bits: [before, after], largest } in widened {
        terminal.warn(format!(
            "{layer} has a weight of {largest:.1}, which takes {after} bits instead of {before}"
        ));
    }
    Ok(widths)
}

/// Compiles with fresh seeds, and a bar for what takes long.
///
/// # Errors
/// As the compiler's.
pub fn compile(
    fused: &FusedModel,
    calibration: &Calibration,
    config: &CompileConfig,
    terminal: &Terminal,
) -> Result<Compilation> {
    let mut bar: Option<(&str, ProgressBar)> = None;
    let mut observe = |progress: Progress| {
        if bar.as_ref().is_none_or(|(stage, _)| *stage != progress.stage) {
            bar.iter().for_each(|(_, bar)| bar.finish_and_clear());
            bar = Some((progress.stage, terminal.bar(progress.stage, progress.of as u64)));
        }
        bar.iter().for_each(|(_, bar)| bar.set_position(progress.done as u64));
    };
    let seeds = Some(lattice_seeds()?);
    let compiled =
        copriv_compiler::compile_observed(fused, calibration, config, seeds, &mut observe);
    bar.iter().for_each(|(_, bar)| bar.finish_and_clear());
    Ok(compiled?)
}

/// Ranges of the model's values over a data set.
///
/// # Errors
/// Where an image does not fit the model, or a value is not finite.
pub fn calibrate(fused: &FusedModel, images: &Dataset, terminal: &Terminal) -> Result<Calibration> {
    let input = *fused.network().input();
    let bar = terminal.bar("calibrate", images.len() as u64);
    let normalised = (0..images.len()).map(|index| {
        bar.inc(1);
        input.normalise(images.image(index))
    });
    let places = class_labels(images, fused.network().labels())?;
    let labels: Vec<usize> = images.labels().iter().map(|&class| places[class]).collect();
    let calibration = Calibration::from_images(fused, normalised)?.with_labels(&labels)?;
    bar.finish_and_clear();
    Ok(calibration)
}

/// Seeds that no other compilation has.
fn lattice_seeds() -> Result<LatticeSeeds> {
    let mut bytes = Zeroizing::new([[0; 32]; 2]);
    getrandom::fill(bytes.as_flattened_mut())
        .map_err(|error| anyhow!("the operating system gives no randomness: {error}"))?;
    Ok(LatticeSeeds { public: PublicSeed::new(bytes[0]), secret: SecretSeed::new(bytes[1]) })
}

/// Writes the public plan, its hint and the secret weights into a folder.
///
/// # Errors
/// Where they cannot be written.
pub fn write(compilation: &Compilation, folder: &Path) -> Result<()> {
    compilation.weights.write(&folder.join(WEIGHTS_FILE))?;
    if let Some(hint) = &compilation.hint {
        hint.write(&folder.join(HINT_FILE))?;
    }
    compilation.plan.write(&folder.join(Plan::FILE))?;
    Ok(())
}
