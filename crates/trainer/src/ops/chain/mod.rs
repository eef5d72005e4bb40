//! Convolutions, each with its batch norm and gate, one after another in one operation.
//!
//! What limits training on a CPU is memory: the maps of a batch are far larger than any cache. So that each is written once and read
//! as rarely as can be, a convolution takes the output of the one before as it came from there, and brings it through batch norm and
//! gate where it reads it, some pixels at a time; and it adds up its own moments while its outputs are still in the cache. The backward
//! pass likewise writes one map a convolution, the gradient behind its gate, from which that of its output follows where it is read.
//!
//! All sums are made by tasks of a fixed number of images and added in their order, so that results do not depend on the threads.

mod dense;
mod depthwise;
mod flow;
mod layout;
mod norm;

pub(super) use norm::Statistics;

use super::host::{HostOp, HostTensor};
use super::map::{Map, Unwritten, build};
use super::product::ROWS;
use super::simd::{Block, Kernel, Lanes, dispatch};
use copriv_ir::{Activation, ConvGeometry};
use dense::Dense;
use depthwise::Depthwise;
use flow::{Source, Target};
use layout::Layout;
use norm::{Moments, Norm, Pending, Sums};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Images that one task works on in training; fixed, so that the order of additions is.
const GROUP: usize = 8;

/// Pixels that one task works on in evaluation, in whole images: enough to use weights often, few enough for a core's own cache.
const PIXELS: usize = 1024;

/// Which means and variances normalise.
#[derive(Clone, Debug)]
pub(super) enum Normalisation {
    /// Those of the batch.
    Batch,
    /// These, one a unit.
    Given(Arc<Vec<Statistics>>),
}

/// Inputs: x, then of each unit the convolution's weight, the batch norm's weight and bias, the gate's weight.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) units: Vec<ConvGeometry>,
    pub(super) activation: Activation,
    pub(super) epsilon: f32,
    pub(super) normalisation: Normalisation,
}

/// What the forward pass leaves behind.
#[derive(Debug)]
pub(super) struct Record {
    units: Vec<Unit>,
}

impl Record {
    /// The statistics that each unit was normalised by.
    pub(super) fn statistics(&self) -> impl Iterator<Item = &Statistics> {
        self.units.iter().map(|unit| &unit.statistics)
    }
}

/// A convolution, what it put out, and how that is normalised.
#[derive(Debug)]
struct Unit {
    convolution: Convolution,
    map: Map,
    statistics: Statistics,
    norm: Norm,
}

impl Chain {
    /// Whether units can be convolutions of this geometry.
    pub(super) fn takes(geometry: &ConvGeometry) -> bool {
        let is_depthwise = geometry.is_depthwise() && (geometry.kernel, geometry.padding) == (3, 1);
        geometry.groups == 1 || is_depthwise
    }

    fn convolution(&self, unit: usize, weight: &HostTensor, extents: [usize; 2]) -> Convolution {
        let geometry = self.units[unit];
        let layout = Layout::new(geometry, extents);
        if geometry.groups == 1 {
            Convolution::Dense(layout, Dense::new(layout, weight.values()))
        } else {
            Convolution::Depthwise(layout, Depthwise::new(layout, weight.values()))
        }
    }

    fn norm(&self, inputs: &[HostTensor], unit: usize, statistics: &Statistics) -> Norm {
        let [_, weight, bias, gate] = parameters(inputs, unit);
        let gate = gate.values().first().copied().unwrap_or(1.0);
        let parameters = [weight.values(), bias.values()];
        Norm::new(parameters, statistics, self.epsilon, (self.activation, gate))
    }
}

/// The four inputs of a unit.
fn parameters(inputs: &[HostTensor], unit: usize) -> [&HostTensor; 4] {
    let first = 1 + 4 * unit;
    [&inputs[first], &inputs[first + 1], &inputs[first + 2], &inputs[first + 3]]
}

/// The images of a task.
fn images(task: usize, group: usize, batch: usize) -> Range<usize> {
    task * group..((task + 1) * group).min(batch)
}

impl<const N: usize> HostOp<N> for Chain {
    type Found = Arc<Record>;

    fn forward(&self, inputs: &[HostTensor; N]) -> (HostTensor, Arc<Record>) {
        let (batch, mut extents) = inputs[0].extents();
        let mut units: Vec<Unit> = Vec::with_capacity(self.units.len());
        for unit in 0..self.units.len() {
            let convolution = self.convolution(unit, parameters(inputs, unit)[0], extents);
            let source = source(inputs, units.last());
            let given = match &self.normalisation {
                Normalisation::Batch => None,
                Normalisation::Given(statistics) => statistics.get(unit),
            };
            let (map, moments) = convolution.outputs(source, batch, given.is_none());
            let channels = self.units[unit].out_channels;
            let statistics = given.cloned();
            let statistics = statistics.unwrap_or_else(|| Moments::statistics(&moments, channels));
            let norm = self.norm(inputs, unit, &statistics);
            extents = convolution.layout().out_extents();
            units.push(Unit { convolution, map, statistics, norm });
        }
        let channels = self.units.last().map_or(0, |unit| unit.out_channels);
        let area = extents[0] * extents[1];
        let (values, _) =
            build(batch * area * channels, GROUP * area * channels, |task, output| {
                let pixels = images(task, GROUP * area, batch * area);
                if let Some(Unit { map, norm, .. }) = units.last() {
                    dispatch(Finish { map, norm, pixels, channels, output });
                }
            });
        let output = HostTensor::new(values, vec![batch, extents[0], extents[1], channels]);
        (output, Arc::new(Record { units }))
    }

    fn evaluate(&self, inputs: &[HostTensor; N]) -> (HostTensor, Arc<Record>) {
        match &self.normalisation {
            Normalisation::Batch => self.forward(inputs),
            Normalisation::Given(statistics) => {
                (self.evaluated(inputs, statistics), Arc::new(Record { units: vec![] }))
            }
        }
    }

    fn backward(
        &self,
        inputs: &[HostTensor; N],
        record: &Arc<Record>,
        gradient: &HostTensor,
        wanted: [bool; N],
    ) -> [Option<HostTensor>; N] {
        let mut results: [Option<HostTensor>; N] = std::array::from_fn(|_| None);
        let Some(last) = record.units.last() else { return results };
        let (batch, _) = inputs[0].extents();
        let (mut dz, mut sums) = last.behind_gate(gradient.values(), batch);
        for (number, unit) in record.units.iter().enumerate().rev() {
            let area = unit.convolution.layout().out_area();
            let count = match self.normalisation {
                Normalisation::Batch => Some(batch * area),
                Normalisation::Given(_) => None,
            };
            let totals = Sums::total(&sums, self.units[number].out_channels);
            let norm = unit.norm.parameters(&unit.statistics, &totals, count);
            let pending = Pending { dz: &dz, x: &unit.map, coefficients: &norm.coefficients };
            let before = number.checked_sub(1).map(|before| &record.units[before]);
            let task = Task { source: source(inputs, before), pending, batch };
            let (dx, weight_sums) = match before {
                Some(before) => {
                    let (next, parts) = task.normed(&unit.convolution, before);
                    let (weights, next_sums): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
                    (dz, sums) = (next, next_sums);
                    (None, weights)
                }
                None => task.plain(&unit.convolution, wanted[0]),
            };
            if let Some(dx) = dx {
                results[0] = Some(HostTensor::new(dx, inputs[0].shape().to_vec()));
            }
            let weight = unit.convolution.weight_gradient(&total(weight_sums));
            let lists = [weight, norm.weight, norm.bias, vec![norm.gate]];
            for (place, list) in lists.into_iter().enumerate() {
                let place = 1 + 4 * number + place;
                let shape = inputs[place].shape().to_vec();
                results[place] = wanted[place].then(|| HostTensor::new(list, shape));
            }
        }
        results
    }
}

fn source<'a>(inputs: &'a [HostTensor], before: Option<&'a Unit>) -> Source<'a> {
    match before {
        Some(Unit { map, norm, .. }) => Source::Normed { map, norm },
        None => Source::Plain { values: inputs[0].values(), channels: inputs[0].channels() },
    }
}

/// The sum of the tasks' sums, in their order.
fn total(tasks: Vec<Vec<Block>>) -> Vec<Block> {
    let mut tasks = tasks.into_iter();
    let mut total = tasks.next().unwrap_or_default();
    let others: Vec<Vec<Block>> = tasks.collect();
    const CHUNK: usize = 1 << 9;
    total.par_chunks_mut(CHUNK).enumerate().for_each(|(number, total)| {
        for other in &others {
            let other = &other[number * CHUNK..][..total.len()];
            let (total, other) = (Block::flat_mut(total), Block::flat(other));
            total.iter_mut().zip(other).for_each(|(total, value)| *total += value);
        }
    });
    total
}

/// A convolution that is ready to be applied.
#[derive(Debug)]
enum Convolution {
    Dense(Layout, Dense),
    Depthwise(Layout, Depthwise),
}

impl Convolution {
    fn layout(&self) -> &Layout {
        match self {
            Self::Dense(layout, _) | Self::Depthwise(layout, _) => layout,
        }
    }

    /// The outputs of all images; the moments of each task where they are wanted.
    fn outputs(&self, source: Source<'_>, batch: usize, wanted: bool) -> (Map, Vec<Moments>) {
        let layout = self.layout();
        let (area, vectors) = (layout.out_area(), layout.out_vectors());
        let (blocks, moments) =
            build(batch * area * vectors, GROUP * area * vectors, |task, output| {
                let mut moments = wanted.then(|| Moments::new(vectors));
                self.forward(source, images(task, GROUP, batch), output, moments.as_mut());
                moments
            });
        (Map { blocks, vectors }, moments.into_iter().flatten().collect())
    }

    fn forward(
        &self,
        source: Source<'_>,
        images: Range<usize>,
        output: &mut Unwritten<'_, Block>,
        moments: Option<&mut Moments>,
    ) {
        match self {
            Self::Dense(_, dense) => {
                dispatch(dense::Forward { dense, source, images, output, moments });
            }
            Self::Depthwise(_, depthwise) => {
                dispatch(depthwise::Forward { depthwise, source, images, output, moments });
            }
        }
    }

    /// Sums of the weight's gradient.
    fn backward(
        &self,
        source: Source<'_>,
        images: Range<usize>,
        gradient: Pending<'_>,
        target: Target<'_, '_>,
    ) -> Vec<Block> {
        match self {
            Self::Dense(_, dense) => {
                dispatch(dense::Backward { dense, source, images, gradient, target })
            }
            Self::Depthwise(_, depthwise) => {
                dispatch(depthwise::Backward { depthwise, source, images, gradient, target })
            }
        }
    }

    fn weight_gradient(&self, sums: &[Block]) -> Vec<f32> {
        match self {
            Self::Dense(layout, _) => dense::weight_gradient(layout, sums),
            Self::Depthwise(layout, _) => depthwise::weight_gradient(layout, sums),
        }
    }
}

/// The backward pass of one convolution.
struct Task<'a> {
    source: Source<'a>,
    pending: Pending<'a>,
    batch: usize,
}

impl Task<'_> {
    /// The gradient behind the gate of the unit before, and of each task the sums for the gradients of the weight and of that gate.
    fn normed(&self, convolution: &Convolution, before: &Unit) -> (Map, Vec<(Vec<Block>, Sums)>) {
        let Unit { map, norm, .. } = before;
        let (vectors, area) = (map.vectors, convolution.layout().area());
        let (blocks, parts) =
            build(self.batch * area * vectors, GROUP * area * vectors, |task, blocks| {
                let mut sums = Sums::new(vectors);
                let target = Target::Normed { blocks, map, norm, sums: &mut sums };
                let images = images(task, GROUP, self.batch);
                let weight = convolution.backward(self.source, images, self.pending, target);
                (weight, sums)
            });
        (Map { blocks, vectors }, parts)
    }

    /// The gradient of the input where it is wanted, and of each task the sums for the gradient of the weight.
    fn plain(
        &self,
        convolution: &Convolution,
        wanted: bool,
    ) -> (Option<Vec<f32>>, Vec<Vec<Block>>) {
        let layout = convolution.layout();
        let (channels, area) = (layout.geometry.in_channels, layout.area());
        let run = |task: usize, target: Target<'_, '_>| {
            let images = images(task, GROUP, self.batch);
            convolution.backward(self.source, images, self.pending, target)
        };
        if !wanted {
            let tasks = (0..self.batch.div_ceil(GROUP)).into_par_iter();
            return (None, tasks.map(|task| run(task, Target::None)).collect());
        }
        let len = self.batch * area * channels;
        let (values, parts) = build(len, GROUP * area * channels, |task, values| {
            run(task, Target::Plain { values, channels })
        });
        (Some(values), parts)
    }
}

impl Unit {
    /// The gradient behind the gate, from that of the gate's output, and the sums of each task.
    fn behind_gate(&self, gradient: &[f32], batch: usize) -> (Map, Vec<Sums>) {
        let Self { map, norm, convolution, .. } = self;
        let (vectors, area) = (map.vectors, convolution.layout().out_area());
        let channels = convolution.layout().geometry.out_channels;
        let (blocks, sums) =
            build(batch * area * vectors, GROUP * area * vectors, |task, blocks| {
                let mut sums = Sums::new(vectors);
                let target = Target::Normed { blocks, map, norm, sums: &mut sums };
                let pixels = images(task, GROUP * area, batch * area);
                let source = Source::Plain { values: gradient, channels };
                dispatch(BehindGate { source, pixels, vectors, target });
                sums
            });
        (Map { blocks, vectors }, sums)
    }
}

/// Brings a gradient that came from outside to a target.
struct BehindGate<'a, 'b> {
    source: Source<'a>,
    pixels: Range<usize>,
    vectors: usize,
    target: Target<'a, 'b>,
}

impl Kernel for BehindGate<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let mut rows = vec![Block::ZERO; ROWS * self.vectors];
        for first in self.pixels.clone().step_by(ROWS) {
            let rows = &mut rows[..ROWS.min(self.pixels.end - first) * self.vectors];
            for (row, to) in rows.chunks_exact_mut(self.vectors).enumerate() {
                self.source.pixel::<V>(to, first + row);
            }
            self.target.put::<V>(first, rows, self.vectors);
            self.target.flush();
        }
    }
}

/// Brings the last map through its batch norm and gate.
struct Finish<'a, 'b> {
    map: &'a Map,
    norm: &'a Norm,
    pixels: Range<usize>,
    channels: usize,
    output: &'a mut Unwritten<'b, f32>,
}

impl Kernel for Finish<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let mut blocks = vec![Block::ZERO; self.map.vectors];
        for pixel in self.pixels {
            self.norm.apply::<V>(&mut blocks, self.map.pixel(pixel));
            let output = self.output.take(self.channels);
            output.copy_from_slice(&Block::flat(&blocks)[..self.channels]);
        }
    }
}

impl Chain {
    /// The output for given statistics. Each task brings its images through the whole chain, so that maps stay in its core's cache.
    fn evaluated(&self, inputs: &[HostTensor], statistics: &[Statistics]) -> HostTensor {
        let (batch, mut extents) = inputs[0].extents();
        let group = (PIXELS / (extents[0] * extents[1]).max(1)).clamp(1, GROUP * 4);
        let mut units = vec![];
        for (unit, statistics) in statistics.iter().enumerate() {
            let convolution = self.convolution(unit, parameters(inputs, unit)[0], extents);
            extents = convolution.layout().out_extents();
            units.push((convolution, self.norm(inputs, unit, statistics)));
        }
        let area = extents[0] * extents[1];
        let channels = self.units.last().map_or(0, |unit| unit.out_channels);
        let len = group * area * channels;
        let (values, _) = build(batch * area * channels, len, |task, output| {
            let mut images = images(task, group, batch);
            let mut map: Option<(Map, &Norm)> = None;
            for (convolution, norm) in &units {
                let source = match &map {
                    Some((map, norm)) => Source::Normed { map, norm },
                    None => source(inputs, None),
                };
                let layout = convolution.layout();
                let len = images.len() * layout.out_area() * layout.out_vectors();
                let (blocks, _) = build(len, len, |_, output| {
                    convolution.forward(source, images.clone(), output, None);
                });
                // From here on images are counted from the task's first.
                images = 0..images.len();
                map = Some((Map { blocks, vectors: layout.out_vectors() }, norm));
            }
            if let Some((map, norm)) = &map {
                let pixels = 0..images.len() * area;
                dispatch(Finish { map, norm, pixels, channels, output });
            }
        });
        HostTensor::new(values, vec![batch, extents[0], extents[1], channels])
    }
}
