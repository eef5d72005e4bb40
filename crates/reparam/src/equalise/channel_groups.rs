//! Which channels of which layers must be scaled together.
//!
//! Activations, sums and pooling pass a channel's scale on: their input and output form one group.
//! Convolutions separate groups, as their weights take up any scale on either side; a depthwise one
//! separates them channel by channel.

use copriv_ir::{Activation, FusedLayer, FusedModel, FusedOp};

/// Values (layers' outputs) whose channels share their scales.
pub(super) struct ChannelGroup {
    pub(super) channels: usize,
    /// Layers whose output is in it.
    pub(super) members: Vec<usize>,
    /// Convolutions that give one of its values.
    pub(super) producers: Vec<usize>,
    /// Convolutions that take one.
    pub(super) consumers: Vec<usize>,
    /// Why its scales must stay 1, if they must.
    pub(super) fixed: Option<Fixed>,
}

/// Why the channels of a layer cannot be scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// It is the image.
    Input,
    /// They are the logits.
    Logits,
    /// `min(max(s x, 0), 6)` is not `s min(max(x, 0), 6)`.
    Relu6,
}

impl std::fmt::Display for Fixed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Input => "the image is given",
            Self::Logits => "the logits are the answer",
            Self::Relu6 => "ReLU6 has a cap that does not scale",
        })
    }
}

/// All groups, in the order of their first member; each layer's output is in exactly one. `ties` are pairs of layers that are to be scaled
/// together for another reason.
pub(super) fn channel_groups(model: &FusedModel, ties: &[(usize, usize)]) -> Vec<ChannelGroup> {
    let layers = model.layers();
    let mut first: Vec<usize> = (0..layers.len()).collect();
    for (id, layer) in layers.iter().enumerate() {
        if !matches!(layer.op, FusedOp::Conv(_)) {
            layer.inputs.iter().for_each(|input| unite(&mut first, id, input.0));
        }
    }
    ties.iter().for_each(|&(one, other)| unite(&mut first, one, other));
    let roots: Vec<usize> = (0..layers.len()).map(|id| root(&first, id)).collect();
    let group = |first: usize| group(layers, &roots, first);
    (0..layers.len()).filter(|&id| roots[id] == id).map(group).collect()
}

/// Puts both and all that belongs to them into one set, known by its first member.
pub(super) fn unite(first: &mut [usize], one: usize, other: usize) {
    let (a, b) = (root(first, one), root(first, other));
    first[a.max(b)] = a.min(b);
}

/// The first member of the set.
pub(super) fn root(first: &[usize], mut id: usize) -> usize {
    while first[id] != id {
        id = first[id];
    }
    id
}

fn group(layers: &[FusedLayer], roots: &[usize], first: usize) -> ChannelGroup {
    let members: Vec<usize> = (0..layers.len()).filter(|&id| roots[id] == first).collect();
    let is_conv = |id: &usize| matches!(layers[*id].op, FusedOp::Conv(_));
    let takes_one = |id: &usize| layers[*id].inputs.iter().any(|input| roots[input.0] == first);
    let is = |op: FusedOp| members.iter().any(|&id| layers[id].op == op);
    let fixed = if is(FusedOp::Input) {
        Some(Fixed::Input)
    } else if members.contains(&(layers.len() - 1)) {
        Some(Fixed::Logits)
    } else {
        is(FusedOp::Activation(Activation::Relu6)).then_some(Fixed::Relu6)
    };
    ChannelGroup {
        channels: layers[first].shape.channels,
        producers: members.iter().copied().filter(is_conv).collect(),
        consumers: (0..layers.len()).filter(|id| is_conv(id) && takes_one(id)).collect(),
        members,
        fixed,
    }
}
