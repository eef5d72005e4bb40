//! Training runs: stages, checkpoints, resumption.

mod accuracy;
mod average;
mod batch;
mod calibration;
mod config;
mod error;
mod evaluate;
mod gates;
mod loader;
mod loss;
mod methods;
mod metrics;
mod optimiser;
mod overrides;
mod progress;
mod schedule;
mod session;
mod stage;
mod state;
mod teacher;

pub use accuracy::{Accuracy, Tally};
pub use calibration::quantised_logits;
pub use config::{
    Algorithm, AlphaStart, ConfigError, DataConfig, DistillationConfig, FinetuneConfig,
    ImportanceConfig, NetworkConfig, OptimiserConfig, PenaltyConfig, QuantiseConfig,
    ScheduleConfig, SearchConfig, SearchedGates, TrainConfig,
};
pub use error::TrainError;
pub use evaluate::evaluate;
pub use gates::EstimatedBytes;
pub use methods::{Answer, GateImportance, Importances, Method};
pub use metrics::{EpochMetrics, Metrics, Observer, SearchMetrics, StepMetrics};
pub use stage::Stage;

use crate::data::{DataError, Images, Manifest, Split};
use copriv_ir::{Checkpoint, Gates, Network, Provenance};
use session::Session;
use state::StateFolder;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The images of a run.
#[derive(Clone, Debug)]
pub struct TrainingData {
    /// To learn from.
    pub train: Arc<dyn Images>,
    /// To measure on after each epoch.
    pub test: Arc<dyn Images>,
}

impl TrainingData {
    /// Both splits of the data set below `root`, limited as `config` says.
    ///
    /// # Errors
    /// [`DataError`] for what is missing or damaged.
    pub fn load(manifest: &Manifest, root: &Path, config: &DataConfig) -> Result<Self, DataError> {
        let split = |split, limit: Option<usize>| {
            let count = limit.unwrap_or(usize::MAX);
            manifest.first_images(root, split, count).map(Arc::from)
        };
        Ok(Self {
            train: split(Split::Train, config.train_limit)?,
            test: split(Split::Test, config.test_limit)?,
        })
    }
}

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct TrainOutcome {
    /// The network after the last step.
    pub checkpoint: Checkpoint,
    /// Where it was written.
    pub path: PathBuf,
    /// One record for each completed epoch, those before a resumption included.
    pub metrics: Vec<EpochMetrics>,
    /// False where the stop flag ended the run early; it can be resumed.
    pub finished: bool,
}

/// Trains as `config` says on `data` and writes to the folder `out`:
///
/// | file | content |
/// |---|---|
/// | `last.safetensors` | checkpoint after the last completed epoch (or the step it was stopped at); at first what the run begins with |
/// | `best.safetensors` | checkpoint of the stage's best test accuracy so far |
/// | `pretrain.safetensors`, ... | checkpoint at the end of each stage |
/// | `unpruned.safetensors` | the network as the search found it |
/// | `metrics.jsonl` | one [`Metrics`] record a line |
/// | `config.toml` | the settings, defaults and overrides included |
/// | `state/` | what `resume` needs |
///
/// With `resume` it goes on where the run in `out` was interrupted; on a CPU the weights are then
/// those of an uninterrupted run, bit for bit. Once `stop` is set it writes its state and returns
/// after the present step. `observer` is told of every step.
///
/// # Errors
/// [`TrainError`]. Checkpoints written before are left as they are.
pub fn run(
    config: &TrainConfig,
    data: &TrainingData,
    out: &Path,
    resume: bool,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<TrainOutcome, TrainError> {
    let folder = StateFolder::new(out, config);
    if !resume && (folder.exists() || out.join(session::LAST).exists()) {
        return Err(TrainError::Occupied { path: out.into() });
    }
    if resume && !folder.exists() {
        return Err(TrainError::NothingToResume { path: out.into() });
    }
    let mut session = Session::new(config, data, out, folder, resume)?;
    if !resume {
        // An end in the first epoch, too, leaves a checkpoint and what `resume` needs.
        session.save()?;
    }
    session.run(observer, stop)
}

/// The checkpoint that training begins with: the one named, or random weights.
fn start(config: &TrainConfig, data: &TrainingData) -> Result<Checkpoint, TrainError> {
    if let Some(path) = &config.start {
        return with_gates_of(config, Checkpoint::read(path)?);
    }
    let Some(network) = &config.network else {
        return Err(ConfigError::value("network", "a table", "nothing").into());
    };
    let (dataset, shape) = (&data.train, data.train.shape());
    let (mean, std) = dataset.statistics();
    let network = Network::new(network.name, network.width, dataset.classes().len(), shape.height)?
        .with_activation(network.activation)
        .with_final_activation(network.final_activation)
        .with_statistics(mean, std)?
        .with_labels(dataset.classes().to_vec())?;
    with_gates_of(config, Checkpoint::untrained(network, config.seed))
}

/// The same network with a gate for each layer, where that is what the search chooses among.
fn with_gates_of(config: &TrainConfig, checkpoint: Checkpoint) -> Result<Checkpoint, TrainError> {
    let gates = config.search.as_ref().map(|search| search.gates);
    if gates != Some(SearchedGates::Layers) || checkpoint.network().layer_gates() {
        return Ok(checkpoint);
    }
    if checkpoint.gates().kept().contains(&false) {
        let found = format!("gates {}", checkpoint.gates().mask());
        return Err(ConfigError::value("start", "a network with all gates kept", found).into());
    }
    let network = checkpoint.network().clone().with_layer_gates(true);
    let parts = checkpoint.gates().parts().clone();
    let gates = Gates::all_kept(network.graph().blocks().len()).with_parts(parts);
    let (tensors, provenance) = (checkpoint.tensors().clone(), checkpoint.provenance().clone());
    Checkpoint::new(network, gates, tensors, provenance).map_err(|reason| TrainError::Checkpoint {
        stage: Stage::Search,
        epoch: 0,
        reason,
    })
}

/// Where the checkpoints of this run say that they come from.
fn provenance(config: &TrainConfig, start: &Checkpoint) -> Provenance {
    let parent = config.start.is_some().then(|| start.digest());
    let settings = serde_json::to_value(config).unwrap_or_default();
    Provenance::new("train", parent, settings, Some(config.seed))
}

/// Refuses images that the network does not take.
fn check_match(network: &Network, dataset: &dyn Images) -> Result<(), TrainError> {
    let (expected, found) = (network.classes(), dataset.classes().len());
    if expected != found {
        return Err(TrainError::Classes { dataset: dataset.name().into(), expected, found });
    }
    if let Some((class, expected, found)) = first_difference(network.labels(), dataset.classes()) {
        let (dataset, expected, found) = (dataset.name().into(), expected.into(), found.into());
        return Err(TrainError::Labels { dataset, class, expected, found });
    }
    check_shape(network, dataset)
}

/// The first class that two lists of names call differently, and its names; none where one of them has no names.
fn first_difference<'a>(a: &'a [String], b: &'a [String]) -> Option<(usize, &'a str, &'a str)> {
    let pairs = a.iter().zip(b).enumerate();
    let mut different = pairs.filter(|(_, (a, b))| a != b);
    different.next().map(|(class, (a, b))| (class, a.as_str(), b.as_str()))
}

/// Refuses images of another size.
fn check_shape(network: &Network, dataset: &dyn Images) -> Result<(), TrainError> {
    let (expected, found) = (network.input().shape, dataset.shape());
    if expected != found {
        return Err(TrainError::ImageShape { dataset: dataset.name().into(), expected, found });
    }
    Ok(())
}
