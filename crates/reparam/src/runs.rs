//! The maximal linear runs of a network: what could be one convolution.
//!
//! A run leads from one value to another through convolutions and sums alone, and nothing else
//! uses the values between. It is a series of pieces; a sum is a piece of parallel branches, each a
//! series again, and an empty branch is a shortcut. Blocks do not matter: where no activation stands
//! between two of them, the run goes on.

use crate::layers::{Layer, LayerOp};
use copriv_ir::FusedOp;
use std::collections::BTreeMap;

/// A series of pieces applied to the output of layer `source`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) source: usize,
    pub(crate) pieces: Vec<Piece>,
}

/// A linear piece with one input and one output. Numbers are layers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Conv(usize),
    /// Branches of one value, and the layers that add them up: one less than branches.
    Sum {
        branches: Vec<Vec<Piece>>,
        adds: Vec<usize>,
    },
}

impl Piece {
    /// Its layers.
    pub(crate) fn layers(&self) -> Vec<usize> {
        match self {
            Self::Conv(id) => vec![*id],
            Self::Sum { branches, adds } => {
                let inner = branches.iter().flatten().flat_map(Self::layers);
                inner.chain(adds.iter().copied()).collect()
            }
        }
    }
}

/// How the layers that the logits depend on come about: by layer, its run, or `None` where it is an
/// operation of its own. Layers inside runs are not listed.
pub(crate) fn maximal_runs(layers: &[Layer]) -> BTreeMap<usize, Option<Run>> {
    let reaches = reaches(layers);
    let mut runs = BTreeMap::new();
    let mut needed: Vec<usize> = layers.len().checked_sub(1).into_iter().collect();
    while let Some(id) = needed.pop() {
        if runs.contains_key(&id) {
            continue;
        }
        let run = reaches[id].as_ref().map(|reach| reach.run.clone());
        match &run {
            Some(run) => needed.push(run.source),
            None => needed.extend(&layers[id].inputs),
        }
        runs.insert(id, run);
    }
    runs
}

/// A value as a run so far, which takes up `uses` of its source's users.
#[derive(Clone)]
struct Reach {
    run: Run,
    uses: usize,
}

/// Each layer's output as the longest run; `None` for operations that are not linear, and sums of values
/// with nothing in common.
fn reaches(layers: &[Layer]) -> Vec<Option<Reach>> {
    let mut users = vec![0; layers.len()];
    layers.iter().flat_map(|layer| &layer.inputs).for_each(|&input| users[input] += 1);
    let mut reaches: Vec<Option<Reach>> = Vec::new();
    for (id, layer) in layers.iter().enumerate() {
        let through = |input: usize| match &reaches[input] {
            Some(reach) if users[input] == 1 => reach.clone(),
            _ => Reach { run: Run { source: input, pieces: vec![] }, uses: 1 },
        };
        let reach = match (&layer.op, layer.inputs.as_slice()) {
            (LayerOp::Conv(_), [input]) => {
                let mut reach = through(*input);
                reach.run.pieces.push(Piece::Conv(id));
                Some(reach)
            }
            (LayerOp::Other(FusedOp::Add), [a, b]) => {
                let joined = join(id, through(*a), through(*b));
                joined.map(|reach| close(reach, &reaches, &users))
            }
            _ => None,
        };
        reaches.push(reach);
    }
    reaches
}

/// The sum of two runs from one value.
fn join(add: usize, a: Reach, b: Reach) -> Option<Reach> {
    let (source, uses) = (a.run.source, a.uses + b.uses);
    if source != b.run.source {
        return None;
    }
    let (mut branches, mut adds) = (vec![], vec![]);
    for mut pieces in [a.run.pieces, b.run.pieces] {
        match (pieces.pop(), pieces.is_empty()) {
            (Some(Piece::Sum { branches: inner, adds: before }), true) => {
                branches.extend(inner);
                adds.extend(before);
            }
            (last, _) => {
                pieces.extend(last);
                branches.push(pieces);
            }
        }
    }
    adds.push(add);
    Some(Reach { run: Run { source, pieces: vec![Piece::Sum { branches, adds }] }, uses })
}

/// Once all users of a run's source are inside, the run begins where the source's own began.
fn close(reach: Reach, reaches: &[Option<Reach>], users: &[usize]) -> Reach {
    let source = reach.run.source;
    match &reaches[source] {
        Some(before) if reach.uses == users[source] => {
            let mut whole = before.clone();
            whole.run.pieces.extend(reach.run.pieces);
            whole
        }
        _ => reach,
    }
}
