//! What the two parties do differently.

use crate::linear::{
    ClientLattice, ClientLattices, ClientLinear, ClientReply, LinearLayer, Openings, ServerLattice,
    ServerLattices, ServerLinear, ServerReply,
};
use crate::ot::Ots;
use crate::store::Stored;
use crate::threads::Threads;
use crate::{Channel, RuntimeError};
use copriv_ir::lattice::{Hint, SecretSeed};
use copriv_ir::{Digest, LatticePlan, LinearWeights, ReplyPlan, ServerWeights};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A party's side of linear steps. In all other steps the parties run the same code.
pub(super) trait Role {
    /// This party's part of a linear step's correlation.
    type Linear: Stored<Shape = LinearLayer>;
    /// What the lattice correlations of one inference have in common.
    type Lattice<'a>
    where
        Self: 'a;

    /// Before the first correlation of an inference, which `name` is of alone.
    fn begin(&self, name: Digest) -> Result<Self::Lattice<'_>, RuntimeError>;

    /// Makes the correlation of a step; beside the layer, that of the step whose mask it takes, if that is another one.
    fn prepare(
        &self,
        channel: &mut Channel,
        correlators: (&mut Ots, &mut Self::Lattice<'_>),
        layer: (&LinearLayer, Option<&Self::Linear>),
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<Self::Linear, RuntimeError>;

    /// Uses it: from a share of the input to one of the output. What is opened and needed again stays with the input.
    fn apply(
        &self,
        channel: &mut Channel,
        layer: &LinearLayer,
        correlation: Self::Linear,
        input: (Zeroizing<Vec<u64>>, &mut Openings),
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError>;
}

/// The party with the weights.
pub(super) struct ServerRole<'w> {
    pub weights: &'w ServerWeights,
    /// The plan's lattice correlations, and the secret that their hint was made with.
    pub lattice: Option<(LatticePlan, SecretSeed)>,
    /// The plan's correlations with a reply.
    pub reply: Option<ReplyPlan>,
    pub threads: Threads,
}

impl ServerRole<'_> {
    fn layer(&self, layer: &LinearLayer) -> &LinearWeights {
        self.weights.layer(layer.id()).expect("weights of this plan have all its linear steps")
    }
}

impl Role for ServerRole<'_> {
    type Linear = ServerLinear;
    type Lattice<'a>
        = ServerLattices<'a>
    where
        Self: 'a;

    fn begin(&self, name: Digest) -> Result<Self::Lattice<'_>, RuntimeError> {
        let hinted = self.lattice.as_ref();
        let hinted = hinted.map(|(plan, seed)| ServerLattice::new(plan, seed, name));
        let replied = self.reply.as_ref().map(|plan| ServerReply::draw(plan, name));
        Ok(ServerLattices { hinted, replied: replied.transpose()? })
    }

    fn prepare(
        &self,
        channel: &mut Channel,
        (ots, lattices): (&mut Ots, &mut ServerLattices<'_>),
        (layer, _): (&LinearLayer, Option<&ServerLinear>),
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<ServerLinear, RuntimeError> {
        ServerLinear::prepare(
            (channel, &self.threads),
            (ots, lattices),
            layer,
            self.layer(layer),
            watch,
        )
    }

    fn apply(
        &self,
        channel: &mut Channel,
        layer: &LinearLayer,
        correlation: ServerLinear,
        input: (Zeroizing<Vec<u64>>, &mut Openings),
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        correlation.apply((channel, &self.threads), layer, self.layer(layer), input)
    }
}

/// The party with the image.
pub(super) struct ClientRole {
    /// The plan's lattice correlations, with their hint once it is there.
    pub lattice: Option<LatticePlan>,
    /// The plan's correlations with a reply.
    pub reply: Option<ReplyPlan>,
    pub hint: Option<Arc<Hint>>,
    pub threads: Threads,
}

impl Role for ClientRole {
    type Linear = ClientLinear;
    type Lattice<'a>
        = ClientLattices<'a>
    where
        Self: 'a;

    fn begin(&self, name: Digest) -> Result<Self::Lattice<'_>, RuntimeError> {
        let draw = |plan| {
            let hint = self.hint.as_ref().ok_or(RuntimeError::NoHint)?;
            ClientLattice::draw((plan, name), hint, &self.threads)
        };
        let hinted = self.lattice.as_ref().map(draw).transpose()?;
        let replied = self.reply.as_ref().map(|plan| ClientReply::draw(plan, name));
        Ok(ClientLattices { hinted, replied: replied.transpose()? })
    }

    fn prepare(
        &self,
        channel: &mut Channel,
        (ots, lattices): (&mut Ots, &mut ClientLattices<'_>),
        (layer, earlier): (&LinearLayer, Option<&ClientLinear>),
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<ClientLinear, RuntimeError> {
        ClientLinear::prepare((channel, &self.threads), (ots, lattices), layer, earlier, watch)
    }

    fn apply(
        &self,
        channel: &mut Channel,
        layer: &LinearLayer,
        correlation: ClientLinear,
        (input, _): (Zeroizing<Vec<u64>>, &mut Openings),
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        correlation.apply(channel, layer, input)
    }
}
