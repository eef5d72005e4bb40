//! Which neighbours of a run become one convolution: the cheapest way to cut it.
//!
//! Every stretch of a run whose pieces compose exactly ([`copriv_ir::ConvGeometry::then`] and
//! [`beside`](copriv_ir::ConvGeometry::beside)) is a candidate. Their costs add up, so the cheapest cut up to
//! each piece follows from the cheapest cuts before it (dynamic programming). Expand 1x1 and depthwise
//! 3x3 alone, say, are dearer as one; with the project 1x1 behind them, cheaper.

use crate::FuseConfig;
use crate::convolution::Convolution;
use crate::layers::{Layer, LayerOp};
use crate::runs::{Piece, Run};
use copriv_ir::{ConvGeometry, Shape};

/// What becomes of a stretch of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// One convolution.
    Merged { pieces: Vec<Piece>, geometry: ConvGeometry },
    /// Branches side by side, and the layers that add them up.
    Sum { branches: Vec<Vec<Step>>, adds: Vec<usize> },
}

/// The cheapest steps of a run.
pub(crate) fn cheapest(run: &Run, layers: &[Layer], config: &FuseConfig) -> Vec<Step> {
    Decision { layers, config }.series(&run.pieces, layers[run.source].shape).steps
}

#[derive(Clone, Default)]
struct Way {
    cost: f64,
    steps: Vec<Step>,
}

struct Decision<'a> {
    layers: &'a [Layer],
    config: &'a FuseConfig,
}

impl Decision<'_> {
    fn series(&self, pieces: &[Piece], input: Shape) -> Way {
        let mut inputs = vec![input];
        inputs.extend(pieces.iter().map(|piece| self.output(piece)));
        let alone: Vec<Option<ConvGeometry>> =
            pieces.iter().zip(&inputs).map(|(piece, input)| self.merged(piece, *input)).collect();

        // The cheapest ways to the input of each piece, and to the end.
        let mut ways: Vec<Option<Way>> = vec![None; pieces.len() + 1];
        ways[0] = Some(Way::default());
        for start in 0..pieces.len() {
            let Some(before) = ways[start].take() else { continue };
            if let Piece::Sum { branches, adds } = &pieces[start] {
                let apart = self.apart(branches, adds, inputs[start]);
                offer(&mut ways[start + 1], &before, apart.cost, apart.steps);
            }
            let mut run = alone[start];
            for end in start + 1..=pieces.len() {
                let Some(geometry) = run else { break };
                let cost = self.config.cost(&geometry, inputs[start]);
                let pieces = pieces[start..end].to_vec();
                offer(&mut ways[end], &before, cost, vec![Step::Merged { pieces, geometry }]);
                run = alone.get(end).and_then(|next| geometry.then(next.as_ref()?, inputs[start]));
            }
        }
        ways.pop().flatten().unwrap_or_default()
    }

    fn apart(&self, branches: &[Vec<Piece>], adds: &[usize], input: Shape) -> Way {
        let ways = branches.iter().map(|branch| self.series(branch, input));
        let (costs, branches): (Vec<f64>, Vec<_>) = ways.map(|way| (way.cost, way.steps)).unzip();
        let steps = vec![Step::Sum { branches, adds: adds.to_vec() }];
        Way { cost: costs.iter().sum(), steps }
    }

    /// The piece as one convolution, where it is one.
    fn merged(&self, piece: &Piece, input: Shape) -> Option<ConvGeometry> {
        match piece {
            Piece::Conv(id) => self.conv(*id),
            Piece::Sum { branches, .. } => {
                let mut branches = branches.iter().map(|branch| self.merged_series(branch, input));
                let first = branches.next()??;
                branches.try_fold(first, |sum, next| sum.beside(&next?, input))
            }
        }
    }

    /// A branch as one convolution; the empty one is the identity.
    fn merged_series(&self, pieces: &[Piece], input: Shape) -> Option<ConvGeometry> {
        let Some((first, others)) = pieces.split_first() else {
            return Some(Convolution::identity(input).geometry);
        };
        let (mut run, mut at) = (self.merged(first, input)?, self.output(first));
        for piece in others {
            run = run.then(&self.merged(piece, at)?, input)?;
            at = self.output(piece);
        }
        Some(run)
    }

    fn conv(&self, id: usize) -> Option<ConvGeometry> {
        match &self.layers[id].op {
            LayerOp::Conv(conv) => Some(conv.geometry),
            LayerOp::Other(_) => None,
        }
    }

    fn output(&self, piece: &Piece) -> Shape {
        let last = match piece {
            Piece::Conv(id) => *id,
            Piece::Sum { adds, .. } => adds[adds.len() - 1],
        };
        self.layers[last].shape
    }
}

/// Takes the way `before` with `steps` after it where that is cheaper. Of two as cheap the later offer
/// stays: merging is offered after leaving apart.
fn offer(way: &mut Option<Way>, before: &Way, cost: f64, steps: Vec<Step>) {
    let cost = before.cost + cost;
    if way.as_ref().is_none_or(|way| cost <= way.cost) {
        let steps = before.steps.iter().cloned().chain(steps).collect();
        *way = Some(Way { cost, steps });
    }
}
