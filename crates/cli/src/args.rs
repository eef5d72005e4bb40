//! The command line, as clap reads it. Names are fixed: scripts rely on them.

pub mod bench;

pub use bench::Bench;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Train, fuse, compile and run convolutional networks privately between two parties.
///
/// The server owns the model, the client the image; neither learns the other's secret, and the client alone
/// learns the answer. `copriv demo` shows the whole road.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 75 stopped by a signal and to be gone on with (`train`).
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Debug, Clone)]
pub struct Global {
    /// Say more (to stderr).
    #[arg(short, long, global = true, conflicts_with = "quiet", help_heading = "Global options")]
    pub verbose: bool,
    /// Say nothing but errors; no progress bars.
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// When to colour what is written.
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub color: clap::ColorChoice,
    /// Worker threads for evaluation and linear algebra; all cores if not given, one a party in `bench`.
    #[arg(long, global = true, value_name = "N", help_heading = "Global options")]
    pub threads: Option<usize>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Train, fuse, compile and run privately between two processes, then report.
    Demo(Demo),
    /// List, fetch or check data sets.
    #[command(subcommand)]
    Data(Data),
    /// Train a network as a configuration file says.
    ///
    /// Ctrl-C and SIGTERM stop it in good order, with exit status 75; the same command with `--resume` goes on.
    Train(Train),
    /// Make a checkpoint with random weights: for cost studies and tests.
    Init(Init),
    /// Set a checkpoint's gates by hand.
    Prune(Prune),
    /// Bring PyTorch weights in: safetensors or .pth, named as in torchvision, timm or the CIFAR collections.
    Import(Import),
    /// Write a checkpoint or fused model as safetensors for PyTorch, or as ONNX.
    Export(Export),
    /// Even out a checkpoint's channels by exact powers of two, before it is fine-tuned for weights of few bits.
    ///
    /// The network computes the same, bit for bit. Without such fine-tuning `copriv fuse --equalise` does both.
    Equalise(Equalise),
    /// Fuse linear runs into single convolutions, exactly, where that saves bytes.
    Fuse(Fuse),
    /// Compile a fused model into a private-inference plan and the server's weights.
    Compile(Compile),
    /// Show what an artefact is; for a plan, what each step will send.
    Inspect(Inspect),
    /// Measure accuracy in the clear: checkpoint, fused model or plan.
    Eval(Eval),
    /// Serve private inference for a compiled plan.
    Serve(Serve),
    /// Make what inferences need but the image ahead, to be kept by both parties.
    Prepare(Prepare),
    /// Classify images privately with a server.
    Infer(Infer),
    /// Draw runs, networks and plans on one HTML page.
    Report(Report),
    /// Measure our protocols beside the published ones, both parties in one process; or relay slowly.
    #[command(subcommand)]
    Bench(Bench),
    /// Print a shell completion script.
    Completions(Completions),
}

#[derive(Args, Debug)]
pub struct Demo {
    /// Folder for everything the demo makes.
    #[arg(long, value_name = "DIR", default_value = "out/demo")]
    pub out: PathBuf,
    /// Folder of the CIFAR-100 sample.
    #[arg(long, value_name = "DIR", default_value = "datasets/cifar100_sample")]
    pub data: PathBuf,
    /// A trained network, to be compiled and run beside the one that the demo trains.
    #[arg(
        long,
        value_name = "CHECKPOINT",
        default_value = "datasets/models/cifar100_mobilenet_v2_x0.5.safetensors"
    )]
    pub model: PathBuf,
    /// Train for one epoch a stage and classify one image: a check that everything works.
    #[arg(long, hide = true)]
    pub brief: bool,
}

#[derive(Subcommand, Debug)]
pub enum Data {
    /// List the known data sets.
    List,
    /// Download a data set from its source and check it.
    Fetch(DataSet),
    /// Check a data set's files: size, labels, and the checksum where one is known.
    Check(DataSet),
}

#[derive(Args, Debug)]
pub struct DataSet {
    /// Its name, as `copriv data list` shows it.
    pub name: String,
    /// Folder that holds one folder for each data set.
    #[arg(long, value_name = "DIR", default_value = "datasets")]
    pub root: PathBuf,
}

#[derive(Args, Debug)]
pub struct Train {
    /// Training configuration.
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Override a key of the configuration, e.g. `search.epochs=5`.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Folder of the data set; `datasets/NAME` if not given.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to compute: cpu, ndarray, wgpu:N or cuda:N, or several with commas between; what the
    /// configuration says if not given.
    #[arg(long, value_name = "DEV")]
    pub device: Option<String>,
    /// Folder for checkpoints and metrics; `out/CONFIG` if not given.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on where the run in the folder was interrupted, with its settings; `data.workers` and `log_every` may differ.
    #[arg(long)]
    pub resume: bool,
}

/// Which network, where a command must be told.
#[derive(Args, Debug)]
pub struct NetworkArgs {
    /// Family: mobilenet_v2, resnet18, resnet20, resnet32 or resnet50.
    #[arg(long, value_name = "NAME")]
    pub network: String,
    /// Multiplier of all channels.
    #[arg(long, value_name = "W", default_value_t = 1.0)]
    pub width: f64,
    /// Number of classes.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub classes: usize,
    /// Pixels a side: 32 gives the CIFAR form, 224 the ImageNet form.
    #[arg(long, value_name = "R", default_value_t = 32)]
    pub resolution: usize,
    /// Non-linearity; weights do not tell which. MobileNetV2 of torchvision and timm has relu6.
    #[arg(long, value_name = "NAME", default_value = "relu")]
    pub activation: ActivationName,
    /// Leave out the activation after each fused block.
    #[arg(long)]
    pub no_final_activation: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum ActivationName {
    Relu,
    Relu6,
}

#[derive(Args, Debug)]
pub struct Init {
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Seed of the weights.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Checkpoint to write.
    #[arg(long, value_name = "CHECKPOINT")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct Prune {
    /// Checkpoint to read.
    pub checkpoint: PathBuf,
    /// One digit a block in network order, 1 kept, 0 removed; or one a gate, stem first and head last.
    #[arg(long, value_name = "0110...")]
    pub mask: String,
    /// Checkpoint to write.
    #[arg(long, value_name = "CHECKPOINT")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct Equalise {
    /// Checkpoint to read, with the gates that it is to be fine-tuned with.
    pub checkpoint: PathBuf,
    /// Bits of a weight to go by.
    #[arg(long, value_name = "BITS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=32))]
    pub weight_bits: u32,
    /// Checkpoint to write.
    #[arg(long, value_name = "CHECKPOINT")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct Import {
    /// Weights to read: safetensors, or .pth and .pt as torch.save writes them.
    #[arg(value_name = "WEIGHTS")]
    pub weights: PathBuf,
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Whose names the file uses; those that fit best if not given.
    #[arg(long, value_name = "NAMES")]
    pub naming: Option<NamingName>,
    /// Take class names and pixel statistics from this data set.
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// Checkpoint to write.
    #[arg(long, value_name = "CHECKPOINT")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct Export {
    /// Checkpoint or fused model.
    pub artefact: PathBuf,
    /// What to write.
    #[arg(long)]
    pub format: ExportFormatName,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum ExportFormatName {
    /// Named tensors: a state dict, or for fused models what docs/load_fused.py loads.
    Safetensors,
    /// A graph with its weights, operator set 13, any batch size.
    Onnx,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum NamingName {
    /// torchvision, timm's ResNets, chenyaofo's pytorch-cifar-models.
    #[value(alias = "chenyaofo")]
    Torchvision,
    /// timm's MobileNetV2.
    Timm,
    /// kuangliu's pytorch-cifar.
    Kuangliu,
    /// akamaster's pytorch_resnet_cifar10.
    Akamaster,
}

impl From<NamingName> for copriv_ir::Naming {
    fn from(name: NamingName) -> Self {
        match name {
            NamingName::Torchvision => Self::Torchvision,
            NamingName::Timm => Self::Timm,
            NamingName::Kuangliu => Self::Kuangliu,
            NamingName::Akamaster => Self::Akamaster,
        }
    }
}

#[derive(Args, Debug)]
pub struct Fuse {
    /// Checkpoint to read.
    pub checkpoint: PathBuf,
    /// Fused model to write.
    #[arg(long, value_name = "FUSED")]
    pub out: PathBuf,
    /// Compare fused and unfused logits on this many random images.
    #[arg(long, value_name = "N")]
    pub verify: Option<usize>,
    /// What decides which convolutions become one: bytes under a preset, or to have the fewest.
    #[arg(long, value_name = "COUNT", default_value = "copriv")]
    pub count: CountName,
    /// Even out the channels by exact powers of two, for weights of few bits.
    #[arg(long)]
    pub equalise: bool,
    /// Show what became of each block, and each layer's signal-to-noise ratio under `--weight-bits`.
    #[arg(long)]
    pub report: bool,
    /// Bits of a weight that `--equalise` and `--report` go by.
    #[arg(long, value_name = "BITS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=32))]
    pub weight_bits: u32,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum CountName {
    /// Bytes as CoPriv's protocol sends them.
    Copriv,
    /// Bytes as CrypTFlow2 sends them.
    Cryptflow2,
    /// The convolutions themselves.
    Fewest,
}

#[derive(Args, Debug)]
pub struct Compile {
    /// Fused model to read.
    pub fused: PathBuf,
    /// Folder for `plan.json` (public), `server.safetensors` (secret) and, where the plan has a hint,
    /// `hint.bin` (public).
    #[arg(long, value_name = "PLANDIR")]
    pub out: PathBuf,
    /// Where to start from: cryptflow2 (the baseline), copriv, or fast (everything, chosen by cost).
    #[arg(long, default_value = "copriv")]
    pub preset: String,
    /// Make the predicted latency on this network small instead of bytes: lan, wan, mobile or a TOML file
    /// (`copriv bench profile` writes one). `--set objective=online` means the online latency alone.
    #[arg(long, value_name = "lan|wan|mobile|FILE.toml")]
    pub network: Option<String>,
    /// Take value ranges from this data set's training images (a name of `copriv data list`, or a manifest's
    /// path); from noise if not given.
    #[arg(long, value_name = "NAME")]
    pub calibrate: Option<String>,
    /// Folder of the data set; `datasets/NAME` if not given.
    #[arg(long, value_name = "DIR", requires = "calibrate")]
    pub data: Option<PathBuf>,
    /// Images to take them from; 128 if not given, 512 where `--set max_drop` or `max_bytes` choose bits by them.
    #[arg(long, value_name = "N", requires = "calibrate")]
    pub calibration_images: Option<usize>,
    /// Take the bits of weights and values from this plan (or its folder), layer by layer: for a network that was fine-tuned with
    /// them (`finetune.quantise.plan`).
    #[arg(long, value_name = "PLAN")]
    pub widths: Option<PathBuf>,
    /// Override a setting of the preset, e.g. `ring=37`: precision, ring, scale, weight_scale,
    /// activation_bits, weight_bits, ot, leaf_bits, tables, head_room, lowering, chooser, correlation, lattice,
    /// inferences, objective, max_drop, max_bytes or output. A wrong value lists the right ones.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Inspect {
    /// Checkpoint, fused model, plan (or its folder), or a store of prepared inferences.
    pub artefact: PathBuf,
    /// Also say how many seconds each step of a plan takes on this network: lan, wan, mobile or a TOML file.
    #[arg(long, value_name = "lan|wan|mobile|FILE.toml")]
    pub network: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Eval {
    /// Checkpoint, fused model or plan folder.
    pub artefact: PathBuf,
    /// Data set: a name of `copriv data list`, or a manifest's path.
    #[arg(long, value_name = "NAME")]
    pub dataset: String,
    /// Folder of the data set; `datasets/NAME` if not given.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Which images.
    #[arg(long, default_value = "test")]
    pub split: SplitName,
    /// Only the first N images.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Where to compute a checkpoint's answers: cpu, ndarray, wgpu:N or cuda:N; cpu if not given. Fused models and plans
    /// have evaluators of their own, on the CPU.
    #[arg(long, value_name = "DEV", conflicts_with = "dump")]
    pub device: Option<String>,
    /// Write the normalised images, labels and logits as safetensors, to compare with other tools.
    #[arg(long, value_name = "FILE")]
    pub dump: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum SplitName {
    Train,
    Test,
}

#[derive(Args, Debug)]
pub struct Serve {
    /// Folder made by `copriv compile`.
    #[arg(value_name = "PLANDIR")]
    pub plan: PathBuf,
    /// Address to listen on, e.g. 127.0.0.1:7766; port 0 takes a free one (printed).
    #[arg(long, value_name = "ADDR")]
    pub listen: String,
    /// Folder of inferences prepared ahead with `copriv prepare` (secret; made if it is not there).
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Stop after this many sessions.
    #[arg(long, value_name = "N")]
    pub sessions: Option<usize>,
    /// Sessions that run side by side, each with memory of its own; further clients wait until one ends.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_sessions: usize,
}

#[derive(Args, Debug)]
pub struct Prepare {
    /// The server's public plan: `plan.json`, with `hint.bin` beside it where the plan has one.
    #[arg(long)]
    pub plan: PathBuf,
    /// The server's address; it must have been started with `--store`.
    #[arg(long, value_name = "ADDR")]
    pub connect: String,
    /// How many inferences to prepare.
    #[arg(long, value_name = "N")]
    pub count: usize,
    /// Folder to keep them in (secret; made if it is not there). Leave it out of backups.
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// Print one JSON object a line, for each inference.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Infer {
    /// The server's public plan: `plan.json`, with `hint.bin` beside it where the plan has one and there is no
    /// `--store`.
    #[arg(long)]
    pub plan: PathBuf,
    /// The server's address.
    #[arg(long, value_name = "ADDR")]
    pub connect: String,
    /// Folder of inferences made ahead by `copriv prepare`: only online traffic, one of them an image.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Images (PNG or JPEG, any size) to classify; scaled and cut as by `copriv eval`.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Report {
    /// Training runs, fused models, plans, or folders with any of these. What `copriv eval --json` prints
    /// counts as a plan's accuracy when it lies beside it as `eval.json`, as a fused model's
    /// when it is `NAME.eval.json` beside `NAME.safetensors`.
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct Completions {
    /// Shell.
    pub shell: clap_complete::Shell,
}
