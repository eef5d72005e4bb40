//! What an interrupted run needs to go on exactly: weights, their mean, the optimiser's moments and the position.
//!
//! Random choices follow from the position, so there is no generator to be kept.
//!
//! It lies in a folder that is always replaced as a whole, so that its parts belong together.

use super::config::TrainConfig;
use super::error::TrainError;
use super::optimiser::{Moments, Named};
use super::progress::Progress;
use crate::model::{PartWeights, values};
use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::{Checkpoint, Digest, NodeId};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

const WEIGHTS: &str = "weights.safetensors";
const AVERAGE: &str = "average.safetensors";
const MOMENTS: &str = "moments.safetensors";
const PROGRESS: &str = "progress.json";

/// All of it as read back.
pub(super) struct State {
    pub(super) progress: Progress,
    pub(super) weights: Checkpoint,
    pub(super) average: Option<Checkpoint>,
    pub(super) moments: Moments,
    /// Alphas of channels or values, by node; in a search that trains them alone.
    pub(super) parts: PartWeights,
    pub(super) metrics_length: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    progress: Progress,
    metrics_length: u64,
    config: Value,
    weights: Digest,
    average: Option<Digest>,
    moments: Digest,
}

/// Settings that change no result, so that a resumed run may have others.
const FREE: [&str; 2] = ["data.workers", "log_every"];

/// The place of a run's state.
pub(super) struct StateFolder {
    folder: PathBuf,
    config: Value,
}

impl StateFolder {
    /// That of a run with this output folder and these settings.
    pub(super) fn new(out: &Path, config: &TrainConfig) -> Self {
        Self { folder: out.join("state"), config: serde_json::to_value(config).unwrap_or_default() }
    }

    /// The folder to read: the present state, or the one before where a crash came between the two
    /// renames of [`Self::write`].
    fn found(&self) -> Option<PathBuf> {
        [self.folder.clone(), self.replaced()].into_iter().find(|f| f.join(PROGRESS).is_file())
    }

    fn replaced(&self) -> PathBuf {
        self.folder.with_extension("old")
    }

    /// Whether there is a state.
    pub(super) fn exists(&self) -> bool {
        self.found().is_some()
    }

    /// Replaces the state. Where that fails, the old one is still there.
    pub(super) fn write(
        &self,
        progress: &Progress,
        weights: &Checkpoint,
        average: Option<&Checkpoint>,
        (moments, parts): (&Moments, &PartWeights),
        metrics_length: u64,
    ) -> Result<(), TrainError> {
        let parent = self.folder.parent().unwrap_or(Path::new("."));
        let new = tempfile::Builder::new().prefix("state-").tempdir_in(parent);
        let new = new.map_err(TrainError::io(parent))?;
        weights.write(&new.path().join(WEIGHTS))?;
        if let Some(average) = average {
            average.write(&new.path().join(AVERAGE))?;
        }
        let stored = serialise(moments, parts).map_err(|e| TrainError::state(&self.folder, e))?;
        let saved = Saved {
            progress: progress.clone(),
            metrics_length,
            config: self.config.clone(),
            weights: weights.digest(),
            average: average.map(Checkpoint::digest),
            moments: Digest::of([stored.as_slice()]),
        };
        let saved = serde_json::to_vec(&saved).map_err(|e| TrainError::state(&self.folder, e))?;
        for (name, content) in [(MOMENTS, stored), (PROGRESS, saved)] {
            let path = new.path().join(name);
            std::fs::write(&path, content).map_err(TrainError::io(&path))?;
        }
        self.replace_by(&new.keep())
    }

    fn replace_by(&self, new: &Path) -> Result<(), TrainError> {
        let io = TrainError::io(&self.folder);
        let old = self.replaced();
        if self.folder.exists() {
            if old.exists() {
                std::fs::remove_dir_all(&old).map_err(&io)?;
            }
            std::fs::rename(&self.folder, &old).map_err(&io)?;
        }
        std::fs::rename(new, &self.folder).map_err(&io)?;
        if old.exists() {
            std::fs::remove_dir_all(&old).map_err(&io)?;
        }
        Ok(())
    }

    /// Reads the state back onto `device`.
    ///
    /// # Errors
    /// [`TrainError`]: no state, a damaged one, or one of another configuration.
    pub(super) fn read(&self, device: &Device) -> Result<State, TrainError> {
        let nothing = || {
            let out = self.folder.parent().unwrap_or(&self.folder);
            TrainError::NothingToResume { path: out.into() }
        };
        let folder = self.found().ok_or_else(nothing)?;
        let path = folder.join(PROGRESS);
        let text = std::fs::read(&path).map_err(TrainError::io(&path))?;
        let saved: Saved =
            serde_json::from_slice(&text).map_err(|e| TrainError::state(&path, e))?;
        if let Some((key, expected, found)) = difference("", &saved.config, &self.config) {
            return Err(TrainError::ConfigChanged { path, key, expected, found });
        }
        let weights = read_weights(&folder.join(WEIGHTS), saved.weights)?;
        let average = saved.average.map(|digest| read_weights(&folder.join(AVERAGE), digest));
        let average = average.transpose()?;
        let path = folder.join(MOMENTS);
        let stored = std::fs::read(&path).map_err(TrainError::io(&path))?;
        if Digest::of([stored.as_slice()]) != saved.moments {
            return Err(TrainError::state(&path, "it is not that of progress.json"));
        }
        let (moments, parts) = parse(&stored, device).map_err(|e| TrainError::state(&path, e))?;
        let (progress, metrics_length) = (saved.progress, saved.metrics_length);
        Ok(State { progress, weights, average, moments, parts, metrics_length })
    }
}

fn read_weights(path: &Path, digest: Digest) -> Result<Checkpoint, TrainError> {
    let weights = Checkpoint::read(path)?;
    if weights.digest() != digest {
        return Err(TrainError::state(path, "it is not that of progress.json"));
    }
    Ok(weights)
}

const FIRST: &str = "first.";
const SECOND: &str = "second.";
const PARTS: &str = "alphas.";

fn serialise(
    moments: &Moments,
    parts: &PartWeights,
) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let both = [(FIRST, &moments.first), (SECOND, &moments.second)];
    let named = both.into_iter().flat_map(|(prefix, named)| {
        named.iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
    });
    let named = named.map(|(name, tensor)| (name, values(tensor.clone())));
    let alphas = parts.iter().map(|(node, list)| (format!("{PARTS}{}", node.0), list.clone()));
    let stored: Vec<(String, Vec<u8>)> = named
        .chain(alphas)
        .map(|(name, list)| (name, list.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views: Result<Vec<_>, safetensors::SafeTensorError> = stored
        .iter()
        .map(|(name, bytes)| Ok((name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?)))
        .collect();
    safetensors::serialize(views?, None)
}

fn parse(
    stored: &[u8],
    device: &Device,
) -> Result<(Moments, PartWeights), safetensors::SafeTensorError> {
    let file = SafeTensors::deserialize(stored)?;
    let with = |prefix: &str| -> Vec<(String, Vec<f32>)> {
        let list = |(name, view): (String, TensorView<'_>)| {
            let name = name.strip_prefix(prefix)?.to_owned();
            let (chunks, _) = view.data().as_chunks::<4>();
            Some((name, chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
        };
        file.tensors().into_iter().filter_map(list).collect()
    };
    let named = |prefix: &str| -> Named {
        let tensor = |(name, values): (String, Vec<f32>)| {
            let shape = [values.len()];
            (name, Tensor::from_data(TensorData::new(values, shape), device))
        };
        with(prefix).into_iter().map(tensor).collect()
    };
    let parts = with(PARTS).into_iter();
    let parts = parts.filter_map(|(node, values)| Some((NodeId(node.parse().ok()?), values)));
    Ok((Moments { first: named(FIRST), second: named(SECOND) }, parts.collect()))
}

/// The first key in which two configurations differ that matters, and its two values.
fn difference(key: &str, old: &Value, new: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(a), Value::Object(b)) = (old, new) {
        let mut keys = a.keys().chain(b.keys());
        return keys.find_map(|name| {
            let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            let get = |map: &serde_json::Map<String, Value>| map.get(name).cloned();
            difference(&key, &get(a).unwrap_or_default(), &get(b).unwrap_or_default())
        });
    }
    (old != new && !FREE.contains(&key)).then(|| (key.to_owned(), old.to_string(), new.to_string()))
}
