//! What the two parties do differently.

use crate::linear::{ClientLinear, LinearLayer, ServerLinear};
use crate::ot::Ots;
use crate::store::Stored;
use crate::{Channel, RuntimeError};
use copriv_ir::{LinearWeights, ServerWeights};
use zeroize::Zeroizing;

/// A party's side of linear steps. In all other steps the parties run the same code.
pub(super) trait Role {
    /// This party's part of a linear step's correlation.
    type Linear: Stored<Shape = LinearLayer>;

    /// Makes the correlation of a step.
    fn prepare(
        &self,
        channel: &mut Channel,
        ots: &mut Ots,
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
pub(super) struct ServerRole<'a> {
    pub weights: &'a ServerWeights,
}

impl ServerRole<'_> {
    fn layer(&self, layer: &LinearLayer) -> &LinearWeights {
        self.weights.layer(layer.id()).expect("weights of this plan have all its linear steps")
    }
}

impl Role for ServerRole<'_> {
    type Linear = ServerLinear;

    fn prepare(
        &self,
        channel: &mut Channel,
        ots: &mut Ots,
        layer: &LinearLayer,
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<ServerLinear, RuntimeError> {
        ServerLinear::prepare(channel, ots, layer, self.layer(layer), watch)
    }

    fn apply(
        &self,
        channel: &mut Channel,
        layer: &LinearLayer,
        correlation: ServerLinear,
        input: Zeroizing<Vec<u64>>,
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        correlation.apply(channel, layer, self.layer(layer), input)
    }
}

/// The party with the image.
pub(super) struct ClientRole;

impl Role for ClientRole {
    type Linear = ClientLinear;

    fn prepare(
        &self,
        channel: &mut Channel,
        ots: &mut Ots,
        layer: &LinearLayer,
        watch: &mut dyn FnMut(&Channel),
    ) -> Result<ClientLinear, RuntimeError> {
        ClientLinear::prepare(channel, ots, layer, watch)
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
