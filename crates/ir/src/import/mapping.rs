//! Where each parameter of a network is to be found in a foreign file.

use super::naming::parameter_nodes;
use super::{ForeignTensors, Naming, TensorFault, TensorFaultKind};
use crate::{ConvGeometry, Graph, Network, Node, NodeId, Op, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// PyTorch's count of training steps in a batch norm, of no use for inference.
const IGNORED: &str = "num_batches_tracked";

/// Prefixes tried at most, against hostile files.
const MOST_PREFIXES: usize = 64;

/// The parameters of a batch norm.
const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// A network's parameters under one naming and prefix.
pub(super) struct Mapping {
    pub(super) naming: Naming,
    /// What stands before every name of the file.
    pub(super) prefix: String,
    /// The naming's own form of the network.
    pub(super) network: Network,
    pub(super) entries: Vec<Entry>,
    /// Batch norms that the file has folded into their convolutions.
    pub(super) folded: Vec<String>,
}

/// A parameter and where its values come from.
pub(super) struct Entry {
    pub(super) parameter: String,
    pub(super) shape: Vec<usize>,
    pub(super) source: Source,
}

pub(super) enum Source {
    /// The file's tensor of this name.
    Stored(String),
    /// The file need not hold it.
    Known(Tensor),
}

impl Mapping {
    /// The mapping under which most tensors fit by name and shape; `None` where no naming (or not the
    /// one demanded) has names for the network.
    pub(super) fn best(
        tensors: &ForeignTensors<'_>,
        network: &Network,
        demanded: Option<Naming>,
    ) -> Option<Self> {
        let namings = Naming::ALL.into_iter().filter(|n| demanded.is_none_or(|d| d == *n));
        let candidates = namings.flat_map(|naming| {
            let form = naming.form_of(network).map(|form| (form.graph(), form));
            form.into_iter().flat_map(move |(graph, form)| {
                let names = naming.node_names(&form, &graph);
                prefixes(tensors, names.first()).into_iter().map(move |prefix| {
                    let builder = Builder { tensors, graph: &graph, prefix: &prefix };
                    let (entries, folded) = builder.entries(naming, &names);
                    Self { naming, prefix, network: form.clone(), entries, folded }
                })
            })
        });
        candidates.min_by_key(|mapping| mapping.faults(tensors).len())
    }

    /// Every tensor that is missing, of another shape, or not the network's.
    pub(super) fn faults(&self, tensors: &ForeignTensors<'_>) -> Vec<TensorFault> {
        let mut faults = Vec::new();
        let mut used = BTreeSet::new();
        for Entry { parameter, shape, source } in &self.entries {
            let Source::Stored(name) = source else { continue };
            used.insert(name);
            let kind = match tensors.get(name) {
                None => TensorFaultKind::Missing,
                Some(tensor) if tensor.shape() != shape => {
                    TensorFaultKind::Shape { found: tensor.shape().to_vec() }
                }
                Some(_) => continue,
            };
            let (name, parameter) = (name.clone(), Some(parameter.clone()));
            faults.push(TensorFault { name, parameter, shape: shape.clone(), kind });
        }
        let is_counter = |name: &str| name.rsplit('.').next() == Some(IGNORED);
        let foreign = tensors.iter().filter(|(name, _)| !used.contains(name) && !is_counter(name));
        faults.extend(foreign.map(|(name, tensor)| TensorFault {
            name: name.clone(),
            parameter: None,
            shape: tensor.shape().to_vec(),
            kind: TensorFaultKind::Unexpected,
        }));
        faults
    }

    /// Number of tensors that the file must hold.
    pub(super) fn expected(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.source, Source::Stored(_))).count()
    }
}

/// What may stand before the names: whatever stands before the first one, wherever that is found.
fn prefixes(tensors: &ForeignTensors<'_>, first: Option<&String>) -> Vec<String> {
    let anchor = first.map(|name| format!("{name}.weight")).unwrap_or_default();
    let before = |name: &String| {
        let prefix = name.strip_suffix(anchor.as_str())?;
        (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
    };
    let mut prefixes: Vec<String> = tensors.keys().filter_map(before).collect();
    // The first one may be missing itself.
    prefixes.extend([String::new(), common_prefix(tensors)]);
    prefixes.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    prefixes.dedup();
    prefixes.truncate(MOST_PREFIXES);
    prefixes
}

/// The dotted prefix that all names share.
fn common_prefix(tensors: &ForeignTensors<'_>) -> String {
    let mut names = tensors.keys().filter(|name| name.contains('.'));
    let Some(first) = names.next() else { return String::new() };
    let shared = names.fold(first.as_str(), |prefix, name| {
        let same = prefix.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        prefix.get(..same).unwrap_or_default()
    });
    // Only wrappers, so that the network's own names are not mistaken for a prefix.
    const WRAPPERS: [&str; 6] = ["module", "model", "state_dict", "net", "network", "_orig_mod"];
    let parts = shared.split_inclusive('.').take_while(|part| {
        part.strip_suffix('.').is_some_and(|part| WRAPPERS.contains(&part)) //
    });
    parts.collect()
}

struct Builder<'a, 't> {
    tensors: &'a ForeignTensors<'t>,
    graph: &'a Graph,
    prefix: &'a str,
}

impl Builder<'_, '_> {
    fn entries(&self, naming: Naming, names: &[String]) -> (Vec<Entry>, Vec<String>) {
        let nodes = parameter_nodes(self.graph.nodes());
        let names: BTreeMap<&str, &String> =
            nodes.map(|node| node.name.as_str()).zip(names).collect();
        let (mut entries, mut folded) = (Vec::new(), Vec::new());
        for node in parameter_nodes(self.graph.nodes()) {
            let Some(name) = names.get(node.name.as_str()) else { continue };
            let sources: Vec<(&str, Source)> = match &node.op {
                _ if naming == Naming::Akamaster && node.name.contains("downsample") => {
                    parameterless_shortcut(node)
                }
                Op::BatchNorm => match self.folded_bias(node, name, &names) {
                    Some(bias) => {
                        folded.push(node.name.clone());
                        identity_norm(node.shape.channels, Source::Stored(bias))
                    }
                    None => NORM.map(|suffix| (suffix, self.stored(name, suffix))).into(),
                },
                Op::Linear { .. } => {
                    ["weight", "bias"].map(|suffix| (suffix, self.stored(name, suffix))).into()
                }
                _ => vec![("weight", self.stored(name, "weight"))],
            };
            entries.extend(sources.into_iter().map(|(suffix, source)| Entry {
                parameter: format!("{}.{suffix}", node.name),
                shape: shape(node, suffix),
                source,
            }));
        }
        (entries, folded)
    }

    fn stored(&self, node: &str, suffix: &str) -> Source {
        Source::Stored(self.key(node, suffix))
    }

    fn key(&self, node: &str, suffix: &str) -> String {
        format!("{}{node}.{suffix}", self.prefix)
    }

    /// The bias of the convolution before a batch norm that the file lacks altogether.
    fn folded_bias(
        &self,
        node: &Node,
        name: &str,
        names: &BTreeMap<&str, &String>,
    ) -> Option<String> {
        if NORM.iter().any(|suffix| self.tensors.contains_key(&self.key(name, suffix))) {
            return None;
        }
        let &NodeId(before) = node.inputs.first()?;
        let conv = names.get(self.graph.nodes().get(before)?.name.as_str())?;
        let bias = self.key(conv, "bias");
        self.tensors.contains_key(&bias).then_some(bias)
    }
}

fn shape(node: &Node, suffix: &str) -> Vec<usize> {
    match (&node.op, suffix) {
        (Op::Conv(geometry), _) => geometry.weight_shape().to_vec(),
        (Op::Linear { inputs, outputs }, "weight") => vec![*outputs, *inputs],
        _ => vec![node.shape.channels],
    }
}

/// A batch norm that adds `bias` and changes nothing else.
///
/// Exact in single and double precision: the variance is chosen so that with epsilon it is 2^-16, whose
/// root is the weight, 2^-8. (1 - epsilon would be off in the last place.)
fn identity_norm(channels: usize, bias: Source) -> Vec<(&'static str, Source)> {
    let filled = |value: f32| Source::Known(Tensor::filled(vec![channels], value));
    let (scale, var) = (2f32.powi(-8), 2f32.powi(-16) - Graph::BATCH_NORM_EPSILON);
    let [weight, bias_name, mean_name, var_name] = NORM;
    vec![
        (weight, filled(scale)),
        (bias_name, bias),
        (mean_name, filled(0.0)),
        (var_name, filled(var)),
    ]
}

/// A shortcut without parameters as the 1x1 convolution of stride 2 and batch norm that it equals: the
/// input's channels come out in the middle, zeros on both sides.
fn parameterless_shortcut(node: &Node) -> Vec<(&'static str, Source)> {
    match &node.op {
        Op::Conv(ConvGeometry { in_channels, out_channels, .. }) => {
            let mut weight = Tensor::filled(vec![*out_channels, *in_channels, 1, 1], 0.0);
            let padding = out_channels / 4;
            for channel in 0..*in_channels {
                let tap = (channel + padding) * in_channels + channel;
                if let Some(weight) = weight.data_mut().get_mut(tap) {
                    *weight = 1.0;
                }
            }
            vec![("weight", Source::Known(weight))]
        }
        _ => {
            let zero = Tensor::filled(vec![node.shape.channels], 0.0);
            identity_norm(node.shape.channels, Source::Known(zero))
        }
    }
}
