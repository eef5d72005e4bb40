//! What the two parties do differently.

use crate::linear::{ClientLattice, ClientLinear, LinearLayer, ServerLattice, ServerLinear};
use crate::ot::Ots;
use crate::store::Stored;
use crate::threads::Threads;
use crate::{Channel, RuntimeError};
use copriv_ir::lattice::{Hint, SecretSeed};
use copriv_ir::{Digest, LatticePlan, LinearWeights, ServerWeights};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A party's side of linear steps. In all other steps the parties run the same code.
pub(super) trait Role {
    /// This party's part of a linear step's correlation.
    type Linear: Stored<Shape = LinearLayer>;
    /// What the lattice correlations of one inference have in common; none where the plan has none.
    type Lattice<'a>
    where
        Self: 'a;

    /// Before the first correlation of an inference, which `name` is of alone.
    fn begin(&self, name: Digest) -> Result<Self::Lattice<'_>, RuntimeError>;

    /// Makes the correlation of a step.
    fn prepare(
        &self,
        channel: &mut Channel,
        correlators: (&mut Ots, &mut Self::Lattice<'_>),
        layer: &LinearLayer,
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<Self::Linear, RuntimeError>;

    /// Uses it: from a share of the input to one of the output.
    fn apply(
        &self,
        channel: &mut Channel,
        layer: &LinearLayer,
        correlation: Self::Linear,
        input: Zeroizing<Vec<u64>>,
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError>;
}

/// The party with the weights.
pub(super) struct ServerRole<'w> {
    pub weights: &'w ServerWeights,
    /// The plan's lattice correlations, and the secret that their hint was made with.
    pub lattice: Option<(LatticePlan, SecretSeed)>,
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
        = Option<ServerLattice<'a>>
    where
        Self: 'a;

    fn begin(&self, name: Digest) -> Result<Self::Lattice<'_>, RuntimeError> {
        Ok(self.lattice.as_ref().map(|(plan, seed)| ServerLattice::new(plan, seed, name)))
    }

    fn prepare(
        &self,
        channel: &mut Channel,
        (ots, lattice): (&mut Ots, &mut Option<ServerLattice<'_>>),
        layer: &LinearLayer,
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<ServerLinear, RuntimeError> {
        ServerLinear::prepare(
            (channel, &self.threads),
            (ots, lattice.as_mut()),
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
        input: Zeroizing<Vec<u64>>,
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        correlation.apply((channel, &self.threads), layer, self.layer(layer), input)
    }
}

/// The party with the image.
pub(super) struct ClientRole {
    /// The plan's lattice correlations, with their hint once it is there.
    pub lattice: Option<LatticePlan>,
    pub hint: Option<Arc<Hint>>,
    pub threads: Threads,
}

impl Role for ClientRole {
    type Linear = ClientLinear;
    type Lattice<'a>
        = Option<ClientLattice<'a>>
    where
        Self: 'a;

    fn begin(&self, name: Digest) -> Result<Self::Lattice<'_>, RuntimeError> {
        let Some(plan) = &self.lattice else { return Ok(None) };
        let hint = self.hint.as_ref().ok_or(RuntimeError::NoHint)?;
        ClientLattice::draw((plan, name), hint, &self.threads).map(Some)
    }

    fn prepare(
        &self,
        channel: &mut Channel,
        (ots, lattice): (&mut Ots, &mut Option<ClientLattice<'_>>),
        layer: &LinearLayer,
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<ClientLinear, RuntimeError> {
        ClientLinear::prepare((channel, &self.threads), (ots, lattice.as_mut()), layer, watch)
    }

    fn apply(
        &self,
        channel: &mut Channel,
        layer: &LinearLayer,
        correlation: ClientLinear,
        input: Zeroizing<Vec<u64>>,
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        correlation.apply(channel, layer, input)
    }
}
