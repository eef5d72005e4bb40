//! `copriv demo`: the whole road on a small real data set, ending in one table.

mod private;
mod report;

use super::{compile, eval, report as report_page, train};
use crate::args::Demo;
use crate::terminal::Terminal;
use crate::{datasets, picture};
use anyhow::{Context as _, Result, ensure};
use copriv_compiler::{Calibration, CompileConfig, Preset};
use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::fixed_point::CALIBRATION_IMAGES;
use copriv_ir::{Checkpoint, FusedModel};
use copriv_reparam::FuseConfig;
use copriv_trainer::data::{Dataset, Split};
use copriv_trainer::train::TrainConfig;
use private::{PrivateRun, run_privately};
use report::{Form, PlanRow, Report, StageRow};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What the demo trains.
const CONFIG: &str = include_str!("../../../../../configs/demo.toml");
/// Tells a folder made by the demo from any other.
const MARKER: &str = ".copriv-demo";
/// How the files of fused models end.
const FUSED: &str = "fused.safetensors";
const EQUALISED: &str = "equalised.safetensors";
/// Bits of the weights that channels are equalised for: those of the preset `fast`.
const EQUALISED_BITS: u32 = 8;
/// Test images on which plans are evaluated in the clear.
const PLAN_IMAGES: usize = 100;

pub fn run(args: &Demo, terminal: &Terminal) -> Result<()> {
    let started = Instant::now();
    let folder = prepare_folder(&args.out)?;
    let manifest = datasets::find("cifar100_sample")?;
    let images = datasets::load(&manifest, Some(&args.data), Split::Train, None)?;
    let test = datasets::load(&manifest, Some(&args.data), Split::Test, None)?;
    let (data, report) = (args.data.clone(), Report::default());
    let mut demo = DemoRun { folder, data, images, test, terminal, report };

    let config = demo.write_config(args.brief)?;
    let trained = demo.train(&config)?;
    let networks = [
        ("unpruned", trained.join("unpruned.safetensors"), &Preset::PUBLISHED[..]),
        ("pruned", trained.join("last.safetensors"), &Preset::PUBLISHED[..]),
        ("model", args.model.clone(), &[]),
    ];
    for (name, path, presets) in &networks {
        let count = |preset| if args.brief { 1 } else { private_images(name, preset) };
        let fused = demo.fuse(name, path)?;
        let images = demo.images.clone().limit(CALIBRATION_IMAGES);
        if !presets.is_empty() {
            let calibration = compile::calibrate(&fused, &images, terminal)?;
            for &preset in *presets {
                let count = count(preset);
                demo.compile_and_run((name, FUSED), (&fused, &calibration), preset, count)?;
            }
        }
        let equalised = demo.fuse_equalised(name, path)?;
        let calibration = compile::calibrate(&equalised, &images, terminal)?;
        let form = (*name, EQUALISED);
        demo.compile_and_run(form, (&equalised, &calibration), Preset::Fast, count(Preset::Fast))?;
    }
    demo.report.seconds = started.elapsed().as_secs_f64();
    demo.finish()
}

/// How many images each plan classifies privately: more where they are cheap.
fn private_images(form: &str, preset: Preset) -> usize {
    match (form, preset) {
        ("pruned", Preset::CoPriv | Preset::Fast) => 4,
        ("model", _) => 10,
        _ => 1,
    }
}

/// An empty folder, or one that an earlier demo made, emptied.
fn prepare_folder(folder: &Path) -> Result<PathBuf> {
    let occupied = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        ensure!(
            folder.join(MARKER).exists(),
            "{} holds something that is no demo's; give another folder with --out",
            folder.display()
        );
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(folder.join(MARKER), ""))
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    Ok(folder.to_owned())
}

/// What serves a plan and classifies these pictures with it.
fn infer_commands(folder: &Path, pictures: &[PathBuf]) -> Vec<String> {
    let folder = folder.display();
    let pictures: Vec<_> = pictures.iter().map(|path| path.display().to_string()).collect();
    vec![
        format!("copriv serve {folder} --listen 127.0.0.1:7766 --sessions 1"),
        format!(
            "copriv infer --plan {folder}/plan.json --connect 127.0.0.1:7766 {}",
            pictures.join(" ")
        ),
    ]
}

struct DemoRun<'a> {
    folder: PathBuf,
    data: PathBuf,
    images: Dataset,
    test: Dataset,
    terminal: &'a Terminal,
    report: Report,
}

impl DemoRun<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Leaves the training configuration beside what comes of it.
    fn write_config(&self, brief: bool) -> Result<TrainConfig> {
        let brief_settings =
            ["pretrain.epochs=1", "search.epochs=1", "finetune.epochs=1", "data.train_limit=256"];
        let settings = if brief { brief_settings.map(str::to_owned).to_vec() } else { vec![] };
        std::fs::write(self.path("train.toml"), CONFIG)?;
        Ok(TrainConfig::parse(CONFIG, "train.toml", &settings)?)
    }

    /// Pre-training, search, fine-tuning: the folder with the network before and after.
    fn train(&mut self, config: &TrainConfig) -> Result<PathBuf> {
        self.say("train, search which blocks to keep, prune, fine-tune");
        let (started, out) = (Instant::now(), self.path("train"));
        let never = AtomicBool::new(false);
        train::train(config, Some(&self.data), &out, false, &never, self.terminal)?;
        let pruned = Checkpoint::read(&out.join("last.safetensors"))?;
        self.report.stages.push(StageRow {
            stage: "train".into(),
            result: format!(
                "{} of {} gates kept: {}",
                pruned.gates().kept().iter().filter(|&&kept| kept).count(),
                pruned.gates().kept().len(),
                pruned.gates().mask()
            ),
            seconds: started.elapsed().as_secs_f64(),
            command: format!(
                "copriv train {} --data {} --out {}",
                self.path("train.toml").display(),
                self.data.display(),
                out.display()
            ),
        });
        Ok(out)
    }

    /// Fuses, checks on test images that nothing changed, and measures the accuracy.
    fn fuse(&mut self, name: &str, checkpoint: &Path) -> Result<FusedModel> {
        self.say(&format!("fuse the network {name} and compare"));
        let started = Instant::now();
        let from = checkpoint;
        let checkpoint = &Checkpoint::read(from)?;
        let fused = copriv_reparam::fuse(checkpoint)?;
        let input = checkpoint.network().input();
        let images: Vec<Vec<f32>> =
            (0..PLAN_IMAGES).map(|index| input.normalise(self.test.image(index))).collect();
        let verification = copriv_reparam::verify(checkpoint, &fused, &images);
        ensure!(verification.is_good(), "the network {name} changed when fused: {verification}");
        let path = self.path(&format!("{name}.{FUSED}"));
        fused.write(&path)?;
        let accuracy = eval::of_fused(&fused, &self.test, self.terminal)?;
        self.report.forms.push(Form { name: name.into(), accuracy });
        self.report.stages.push(StageRow {
            stage: format!("fuse {name}"),
            result: format!(
                "logits within {:.0e}, top-1 {}",
                verification.max_rel,
                crate::format::percent(accuracy.top1)
            ),
            seconds: started.elapsed().as_secs_f64(),
            command: format!("copriv fuse {} --out {} --verify 8", from.display(), path.display()),
        });
        Ok(fused)
    }

    /// The same function with channels equalised, as few bits need it.
    fn fuse_equalised(&mut self, name: &str, from: &Path) -> Result<FusedModel> {
        let started = Instant::now();
        let (checkpoint, config) = (Checkpoint::read(from)?, FuseConfig::COPRIV);
        let (equalised, report) =
            copriv_reparam::fuse_equalised(&checkpoint, &config, EQUALISED_BITS)?;
        let path = self.path(&format!("{name}.{EQUALISED}"));
        equalised.write(&path)?;
        let [before, after] =
            [report.mean(|layer| layer.before.channels), report.mean(|layer| layer.after.channels)];
        self.report.stages.push(StageRow {
            stage: format!("equalise {name}"),
            result: format!(
                "weights of {EQUALISED_BITS} bits: {before:.0} -> {after:.0} dB a channel"
            ),
            seconds: started.elapsed().as_secs_f64(),
            command: format!("copriv fuse {} --out {} --equalise", from.display(), path.display()),
        });
        Ok(equalised)
    }

    /// Compiles with one preset, then classifies `count` test images between two processes.
    fn compile_and_run(
        &mut self,
        (form, file): (&str, &str),
        (fused, calibration): (&FusedModel, &Calibration),
        preset: Preset,
        count: usize,
    ) -> Result<()> {
        let name = format!("{form}-{}", preset.name());
        self.say(&format!("compile {name}, then classify {count} images privately"));
        let config = CompileConfig::new(preset);
        let compilation = compile::compile(fused, calibration, &config, self.terminal)?;
        let folder = self.path("plans").join(&name);
        compile::write(&compilation, &folder)?;

        let evaluator = PlanEvaluator::new(&compilation.plan, &compilation.weights)?;
        let some = self.test.clone().limit(PLAN_IMAGES);
        let logits = |image: &[f32]| evaluator.logits_f64(image);
        let plan = &compilation.plan;
        let accuracy = eval::measure(&some, (plan.input(), plan.labels()), self.terminal, logits)?;
        let evaluation = eval::json(&accuracy, &folder, self.test.name(), Split::Test);
        std::fs::write(folder.join(report_page::EVALUATION), evaluation.to_string())?;

        let pictures = self.write_pictures(count)?;
        let private: PrivateRun = run_privately(&folder, &pictures, self.terminal)?;
        private.check(&compilation.plan, &compilation.weights, &pictures)?;
        let comm = compilation.plan.predicted_comm();
        let compile = format!(
            "copriv compile {} --out {} --preset {} --calibrate {} --data {}",
            self.path(&format!("{form}.{file}")).display(),
            folder.display(),
            preset.name(),
            self.images.name(),
            self.data.display()
        );
        let commands = [vec![compile], infer_commands(&folder, &pictures)].concat();
        let row = PlanRow::new(&name, &comm, (&private, &pictures), accuracy, commands);
        self.report.plans.push(row);
        Ok(())
    }

    /// The first test images of different classes, as files.
    fn write_pictures(&self, count: usize) -> Result<Vec<PathBuf>> {
        let folder = self.path("images");
        std::fs::create_dir_all(&folder)?;
        let stride = (self.test.len() / count.max(1)).max(1);
        let picture = |number: usize| {
            let index = number * stride;
            let label = &self.test.classes()[self.test.labels()[index]];
            let path = folder.join(format!("{index:03}_{label}.png"));
            picture::write(&path, self.test.image(index), self.test.shape().height)?;
            Ok(path)
        };
        (0..count).map(picture).collect()
    }

    fn say(&self, what: &str) {
        self.terminal.say(format_args!("\n\x1b[1m{what}\x1b[0m"));
    }

    /// Shows the tables and leaves them in the folder.
    fn finish(self) -> Result<()> {
        let text = self.report.to_string();
        std::fs::write(self.path("report.txt"), &text)?;
        std::fs::write(self.path("report.json"), serde_json::to_string_pretty(&self.report)?)?;
        report_page::write_for(&self.folder, &self.path("report.html"), self.terminal)?;
        self.terminal.data(text)?;
        self.terminal
            .say(format_args!("everything is in {}, drawn in report.html", self.folder.display()));
        Ok(())
    }
}
