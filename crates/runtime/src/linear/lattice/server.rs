//! The server's side of an inference's lattice correlations.

use crate::{Channel, RuntimeError};
use copriv_ir::lattice::{Carrier, SecretSeed, server_share};
use copriv_ir::packing::Unpacker;
use copriv_ir::{LatticePlan, LinearWeights, StepId};
use zeroize::Zeroizing;

/// What the server remembers from one upload of an inference to the next.
pub(crate) struct ServerLattice<'a> {
    plan: &'a LatticePlan,
    seed: &'a SecretSeed,
    carriers: Vec<Option<Carrier>>,
    /// Steps received so far.
    received: usize,
}

impl<'a> ServerLattice<'a> {
    /// For an inference; `seed` is the secret that the hint was made with.
    pub(crate) fn new(plan: &'a LatticePlan, seed: &'a SecretSeed) -> Self {
        let carriers = (0..plan.section.secrets).map(|_| None).collect();
        Self { plan, seed, carriers, received: 0 }
    }

    /// Receives the upload of the next step, which must be `step`; its share `S`.
    ///
    /// # Errors
    /// As [`Channel::recv`].
    ///
    /// # Panics
    /// Where the plan's next lattice step is another one.
    pub(crate) fn receive(
        &mut self,
        channel: &mut Channel,
        step: StepId,
        weights: &LinearWeights,
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let number = self.received;
        self.received += 1;
        let layer = &self.plan.steps[number];
        assert_eq!(layer.id(), step, "steps are prepared in the order of the plan");
        let message = channel.recv(self.plan.upload_bytes(number) as usize)?;
        let mut message = Unpacker::new(&message);
        for &secret in &self.plan.carriers[number] {
            let carrier = Carrier::read(self.plan.section.shared(), &mut message);
            self.carriers[secret] = Some(carrier);
        }
        Ok(server_share(layer, &weights.weight, self.seed, &self.carriers, &mut message))
    }
}
