//! Convolutions that follow one another directly, each with its batch norm and activation: one operation for all.

use super::Model;
use super::forward::{GateValue, Late, Mode, Pass, Readers};
use super::layer::{Layer, Norm};
use crate::ops::{self, Gate, NormaliseBy, Unit};
use burn::tensor::Tensor;
use copriv_ir::{ConvGeometry, Graph, NodeId, Op};

/// Share of the newest batch in the running statistics, as in PyTorch.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// A convolution and what is computed along with it.
pub(super) struct Link<'a> {
    conv: usize,
    geometry: &'a ConvGeometry,
    pub(super) norm: usize,
    gate: Gate,
    /// An activation that comes after the operation and not with it.
    pub(super) late: Late,
    /// The last node of them.
    pub(super) end: usize,
    /// Whether the output is rounded.
    pub(super) is_rounded: bool,
}

impl Model {
    /// The links of a chain from node `id` on; none where that is no convolution.
    ///
    /// It ends where another node too reads an output, where one is rounded, or where an activation applies in part.
    pub(super) fn links(
        &self,
        id: usize,
        readers: &[Readers],
        gates: &[GateValue],
        pass: &Pass,
    ) -> Vec<Link<'_>> {
        let nodes = self.graph().nodes();
        let mut links: Vec<Link<'_>> = vec![];
        let mut conv = id;
        while let Some(Op::Conv(geometry)) = nodes.get(conv).map(|node| &node.op) {
            let continues = links.last().is_none_or(|last| {
                nodes[conv].inputs == [NodeId(last.end)]
                    && readers[last.end].count == 1
                    && !last.is_rounded
                    && matches!(last.late, Late::None)
            });
            if !continues {
                break;
            }
            let norm = conv + 1;
            let condition = self.fused_activation(norm, readers);
            let end = norm + usize::from(condition.is_some());
            let (gate, late) = self.gate_and_late(norm, condition, gates, pass);
            let is_rounded = pass.quantiser.as_ref().is_some_and(|q| q.rounds(norm));
            links.push(Link { conv, geometry, norm, gate, late, end, is_rounded });
            conv = end + 1;
        }
        links
    }

    /// The output of a chain for input `x`.
    pub(super) fn chain(&self, x: Tensor<4>, links: &[Link<'_>], pass: &Pass) -> Tensor<4> {
        let (norms, units): (Vec<&Norm>, Vec<Unit>) =
            links.iter().filter_map(|link| self.unit(link, pass)).unzip();
        let by = match pass.mode {
            Mode::Train => NormaliseBy::Batch,
            Mode::Evaluate => NormaliseBy::Running,
        };
        let [batch, _, mut height, mut width] = x.dims();
        let (output, moments) = ops::chain(x, &units, f64::from(Graph::BATCH_NORM_EPSILON), by);
        for ((norm, moments), unit) in norms.into_iter().zip(moments).zip(&units) {
            [height, width] = [height, width].map(|side| unit.geometry.output_extent(side));
            norm.follow(moments, batch * height * width);
        }
        output
    }

    fn unit(&self, link: &Link<'_>, pass: &Pass) -> Option<(&Norm, Unit)> {
        let (Some(Layer::Conv(conv)), Some(Layer::Norm(norm))) =
            (&self.layers[link.conv], &self.layers[link.norm])
        else {
            return None;
        };
        let unit = Unit {
            geometry: *link.geometry,
            weight: pass.weight(link.conv, conv.weight.val()),
            parameters: [norm.weight.val(), norm.bias.val()],
            running: [norm.running_mean.value_sync(), norm.running_var.value_sync()],
            gate: link.gate.clone(),
        };
        Some((norm, unit))
    }
}

impl Norm {
    /// Brings the running statistics up to date with mean and biased variance of a batch of `count` pixels.
    fn follow(&self, [mean, variance]: [Tensor<1>; 2], count: usize) {
        // PyTorch keeps the unbiased variance and normalises by the biased one.
        let count = count as f64;
        let unbiased = variance.mul_scalar(count / (count - 1.0).max(1.0));
        let blend = |old: Tensor<1>, new: Tensor<1>| {
            let is_autodiff = old.is_autodiff();
            let old = if is_autodiff { old.inner() } else { old };
            let mixed =
                old.mul_scalar(1.0 - STATISTICS_MOMENTUM) + new.mul_scalar(STATISTICS_MOMENTUM);
            if is_autodiff { Tensor::from_inner(mixed) } else { mixed }
        };
        self.running_mean.update(blend(self.running_mean.value_sync(), mean));
        self.running_var.update(blend(self.running_var.value_sync(), unbiased));
    }
}
