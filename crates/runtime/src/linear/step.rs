//! One linear step of a plan, as either party does it.

use super::lattice::{ClientLattices, ServerLattices};
use super::ot;
use crate::ot::Ots;
use crate::packing::{pack, packed_len, unpack};
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::threads::Threads;
use crate::{Channel, RuntimeError};
use copriv_ir::cost::OtProduct;
use copriv_ir::lowering::{bias_map, direct_conv, filter_matrices, input_matrices, output_map};
use copriv_ir::{
    Correlation, Fact, LinearStep, LinearWeights, MatMulShape, OtKind, Party, Plan, Ring, Shape,
    StepId,
};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// A linear step with all that is public of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearLayer {
    id: StepId,
    /// The step whose mask it takes: its own, or an earlier one's that reads the same value.
    source: StepId,
    /// Whether a later step takes its mask.
    is_source: bool,
    step: LinearStep,
    input: Shape,
    ring: Ring,
}

/// A step's products by oblivious transfer.
#[derive(Clone, Copy)]
struct OtLayer<'a> {
    layer: &'a LinearLayer,
    shape: MatMulShape,
    product: OtProduct,
}

/// What was opened to the server and is needed again: `x - R`, with its own share added, by the step that it was opened for.
pub(crate) type Openings = BTreeMap<StepId, Zeroizing<Vec<u64>>>;

/// Of correlations with a reply.
const SAID: &str = "a plan with such steps says what they share";

/// The server's part of the correlation: `S` and the bias, one element of the ring an output.
pub(crate) struct ServerLinear {
    ring: Ring,
    share: Zeroizing<Vec<u64>>,
}

/// The client's part of the correlation.
pub(crate) struct ClientLinear {
    ring: Ring,
    /// `R`, one element of the ring an input; empty where it is an earlier step's.
    mask: Zeroizing<Vec<u64>>,
    /// `T`, one element of the ring an output.
    share: Zeroizing<Vec<u64>>,
}

impl ServerLinear {
    /// Makes `S + T = f W (*) R`.
    ///
    /// | server: `U` from `W` | | client: `V` from random `R` |
    /// |---|---|---|
    /// | | `<->` [`ot`]: shares of all products | |
    /// | `S`: its shares mapped to the output | | `T`: its shares mapped to the output |
    pub(crate) fn prepare(
        (channel, threads): (&mut Channel, &Threads),
        (ots, lattices): (&mut Ots, &mut ServerLattices<'_>),
        layer: &LinearLayer,
        weights: &LinearWeights,
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<Self, RuntimeError> {
        let LinearLayer { step, input, ring, .. } = *layer;
        let mut share = match step.correlation {
            Correlation::Ot { kind, chooser } => {
                Self::prepare_ot((channel, threads), ots, &layer.ot(kind, chooser), weights, watch)?
            }
            Correlation::Lattice(_) => {
                let hinted = lattices.hinted.as_mut().ok_or(RuntimeError::NoLatticeSeed)?;
                hinted.receive((channel, threads), layer.id, weights)?
            }
            Correlation::Reply(_) => {
                let replied = lattices.replied.as_mut().expect(SAID);
                replied.reply((channel, threads), layer.id, weights)?
            }
        };
        let bias = Zeroizing::new(bias_map(ring, &step.geometry, input, &weights.bias));
        share.iter_mut().zip(&*bias).for_each(|(share, &bias)| *share = ring.add(*share, bias));
        Ok(Self { ring, share })
    }

    fn prepare_ot(
        (channel, threads): (&mut Channel, &Threads),
        ots: &mut Ots,
        layer: &OtLayer<'_>,
        weights: &LinearWeights,
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let product = layer.product;
        let factors = threads.install(|| layer.server_factors(weights))?;
        let at = (channel, threads);
        let products = match product.chooser {
            Party::Server => ot::choose(at, &mut ots.receiver, product, &factors, watch)?,
            Party::Client => ot::offer(at, &mut ots.sender, product, &factors, watch)?,
        };
        drop(factors);
        Ok(threads.install(|| layer.output(products)))
    }

    /// The server's share of the output, from its share `x0` of the input.
    ///
    /// | server: `x0` | | client: `x1` |
    /// |---|---|---|
    /// | | `<-` | `x1 - R`, unless an earlier step has opened it |
    /// | `f W (*) (x0 + x1 - R) + S + bias` | | `T` |
    pub(crate) fn apply(
        mut self,
        (channel, threads): (&mut Channel, &Threads),
        layer: &LinearLayer,
        weights: &LinearWeights,
        (mut input, openings): (Zeroizing<Vec<u64>>, &mut Openings),
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let LinearLayer { step, ring, .. } = layer;
        if let Some(opened) = openings.get(&layer.source) {
            input.clone_from(opened);
        } else {
            let masked = channel.recv(packed_len(input.len(), ring.bits()))?;
            let masked = unpack(&masked, ring.bits(), input.len());
            input.iter_mut().zip(masked).for_each(|(x, masked)| *x = ring.add(*x, masked));
        }
        if layer.is_source {
            openings.insert(layer.id, input.clone());
        }
        let (geometry, weights) = (&step.geometry, &weights.weight);
        let outputs =
            threads.install(|| direct_conv(*ring, geometry, layer.input, &input, weights));
        let extra = step.lowering.extra_scale();
        for (share, output) in self.share.iter_mut().zip(outputs) {
            *share = ring.add(*share, output << extra);
        }
        Ok(self.share)
    }
}

impl ClientLinear {
    /// See [`ServerLinear::prepare`]. `earlier` is the correlation whose mask is to be taken, if any.
    pub(crate) fn prepare(
        (channel, threads): (&mut Channel, &Threads),
        (ots, lattices): (&mut Ots, &mut ClientLattices<'_>),
        layer: &LinearLayer,
        earlier: Option<&Self>,
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<Self, RuntimeError> {
        let at = (&mut *channel, threads);
        let (mask, share) = match layer.step.correlation {
            Correlation::Ot { kind, chooser } => {
                let layer = layer.ot(kind, chooser);
                return Self::prepare_ot(at, ots, &layer, earlier, watch);
            }
            Correlation::Lattice(_) => {
                let hinted = lattices.hinted.as_mut().ok_or(RuntimeError::NoHint)?;
                hinted.upload(at, layer.id)?
            }
            Correlation::Reply(_) => {
                lattices.replied.as_mut().expect(SAID).exchange(at, layer.id)?
            }
        };
        Ok(Self { ring: layer.ring, mask, share })
    }

    fn prepare_ot(
        (channel, threads): (&mut Channel, &Threads),
        ots: &mut Ots,
        layer: &OtLayer<'_>,
        earlier: Option<&Self>,
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<Self, RuntimeError> {
        let OtLayer { product, layer: &LinearLayer { step, input, ring, .. }, .. } = *layer;
        let mut mask: Zeroizing<Vec<u64>> = Zeroizing::default();
        if earlier.is_none() {
            mask.resize(input.elements(), 0);
            mask.iter_mut().for_each(|r| *r = ring.reduce(ots.rng.next_u64()));
        }
        let taken = earlier.map_or(&mask, |earlier| &earlier.mask);
        let factors = threads.install(|| input_matrices(&step, input, taken, ring));
        let factors = Zeroizing::new(factors);
        let at = (channel, threads);
        let products = match product.chooser {
            Party::Server => ot::offer(at, &mut ots.sender, product, &factors, watch)?,
            Party::Client => ot::choose(at, &mut ots.receiver, product, &factors, watch)?,
        };
        drop(factors);
        let share = threads.install(|| layer.output(products));
        Ok(Self { ring, mask, share })
    }

    /// The client's share of the output, from its share `x1` of the input. See [`ServerLinear::apply`].
    pub(crate) fn apply(
        self,
        channel: &mut Channel,
        layer: &LinearLayer,
        input: Zeroizing<Vec<u64>>,
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let ring = layer.ring;
        if layer.is_shared() {
            return Ok(self.share);
        }
        let masked = input.iter().zip(&*self.mask).map(|(&x, &mask)| ring.sub(x, mask));
        channel.send(&pack(masked, ring.bits()))?;
        Ok(self.share)
    }
}

impl Stored for ServerLinear {
    type Shape = LinearLayer;

    fn store(self, record: &mut RecordWriter) {
        record.numbers(&self.share, self.ring.bits());
    }

    fn restore(layer: LinearLayer, record: &mut RecordReader<'_>) -> Result<Self, RecordTooShort> {
        let ring = layer.ring;
        Ok(Self { ring, share: record.numbers(layer.outputs(), ring.bits())? })
    }
}

impl Stored for ClientLinear {
    type Shape = LinearLayer;

    fn store(self, record: &mut RecordWriter) {
        record.numbers(&self.mask, self.ring.bits());
        record.numbers(&self.share, self.ring.bits());
    }

    fn restore(layer: LinearLayer, record: &mut RecordReader<'_>) -> Result<Self, RecordTooShort> {
        let ring = layer.ring;
        let masked = if layer.is_shared() { 0 } else { layer.input.elements() };
        let mask = record.numbers(masked, ring.bits())?;
        let share = record.numbers(layer.outputs(), ring.bits())?;
        Ok(Self { ring, mask, share })
    }
}

impl LinearLayer {
    /// Step `id` of a plan, a linear one, on an input of this fact.
    pub(crate) fn new(plan: &Plan, id: StepId, step: LinearStep, input: &Fact) -> Self {
        let Fact { shape: input, ring, .. } = *input;
        let source = plan.mask_source(id);
        let later = plan.steps().iter().skip(id.0 + 1);
        let is_source = later.map(|step| plan.mask_source(step.id)).any(|source| source == id);
        Self { id, source, is_source, step, input, ring }
    }

    /// The step whose mask it takes, where that is an earlier one.
    pub(crate) fn earlier(&self) -> Option<StepId> {
        self.is_shared().then_some(self.source)
    }

    fn is_shared(&self) -> bool {
        self.source != self.id
    }

    /// The step.
    pub(crate) fn id(&self) -> StepId {
        self.id
    }

    /// Elements of the output.
    fn outputs(&self) -> usize {
        self.step.geometry.output_shape(self.input).elements()
    }

    /// Its products by oblivious transfer.
    fn ot(&self, kind: OtKind, chooser: Party) -> OtLayer<'_> {
        let products = || {
            let shape = self.step.lowering.mat_mul(&self.step.geometry, self.input)?;
            Some((shape, OtProduct::new(&self.step, (kind, chooser), self.input, self.ring)?))
        };
        let (shape, product) = products().expect("every plan's lowerings fit: it was verified");
        OtLayer { layer: self, shape, product }
    }
}

impl OtLayer<'_> {
    /// The transposes of `U`, `count x k x m`: what the server chooses with or offers.
    fn server_factors(&self, weights: &LinearWeights) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let LinearLayer { id, step, ring, .. } = *self.layer;
        let factors = Zeroizing::new(filter_matrices(&step, &weights.weight, ring));
        let bits = step.weight_bits;
        let fits = |&x: &u64| {
            let signed = ring.to_signed(x);
            signed << (64 - bits) >> (64 - bits) == signed
        };
        if self.product.chooser == Party::Server && !factors.iter().all(fits) {
            return Err(RuntimeError::WideWeights { step: id, bits });
        }
        Ok(transposed(&factors, self.shape.m, self.shape.k))
    }

    /// A party's share of the output from its shares of the products as the transfers leave them.
    fn output(&self, mut products: Zeroizing<Vec<u64>>) -> Zeroizing<Vec<u64>> {
        let LinearLayer { step, input, ring, .. } = *self.layer;
        products.iter_mut().for_each(|x| *x = ring.reduce(*x));
        if self.product.chooser == Party::Client {
            products = transposed(&products, self.shape.n, self.shape.m);
        }
        Zeroizing::new(output_map(&step, input, &products, ring))
    }
}

/// Side of the squares that are transposed at a time: what a cache's lines hold of them stays there.
const SQUARE: usize = 16;

/// The transposes of matrices `rows x columns`, one after the other.
fn transposed(matrices: &[u64], rows: usize, columns: usize) -> Zeroizing<Vec<u64>> {
    let mut transposed = Zeroizing::new(vec![0; matrices.len()]);
    let size = (rows * columns).max(1);
    for (to, from) in transposed.chunks_mut(size).zip(matrices.chunks(size)) {
        for row in (0..rows).step_by(SQUARE) {
            for column in (0..columns).step_by(SQUARE) {
                for row in row..rows.min(row + SQUARE) {
                    let from = &from[row * columns + column..(row + 1) * columns];
                    for (at, &value) in from.iter().take(SQUARE).enumerate() {
                        to[(column + at) * rows + row] = value;
                    }
                }
            }
        }
    }
    transposed
}
