//! The server's side of an inference's lattice correlations.

use super::message::content;
use crate::threads::Threads;
use crate::{Channel, RuntimeError};
use copriv_ir::lattice::{Carrier, SecretSeed, server_share};
use copriv_ir::packing::Unpacker;
use copriv_ir::{Digest, LatticePlan, LinearWeights, Party, StepId};
use zeroize::Zeroizing;

/// What the server remembers from one upload of an inference to the next.
pub(crate) struct ServerLattice<'a> {
    plan: &'a LatticePlan,
    seed: &'a SecretSeed,
    /// The inference that uploads must be of.
    name: Digest,
    carriers: Vec<Option<Carrier>>,
    /// Steps received so far.
    received: usize,
}

impl<'a> ServerLattice<'a> {
    /// For the inference of this name; `seed` is the secret that the hint was made with.
    pub(crate) fn new(plan: &'a LatticePlan, seed: &'a SecretSeed, name: Digest) -> Self {
        let carriers = (0..plan.section.secrets).map(|_| None).collect();
        Self { plan, seed, name, carriers, received: 0 }
    }

    /// Receives the upload of the next step, which must be `step`; its share `S`.
    ///
    /// # Errors
    /// [`RuntimeError::ForeignUpload`] where it is damaged, or one of another step or inference; as [`Channel::recv`].
    ///
    /// # Panics
    /// Where the plan's next lattice step is another one.
    pub(crate) fn receive(
        &mut self,
        (channel, threads): (&mut Channel, &Threads),
        step: StepId,
        weights: &LinearWeights,
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let number = self.received;
        self.received += 1;
        let layer = &self.plan.steps[number];
        assert_eq!(layer.id(), step, "steps are prepared in the order of the plan");
        let message = channel.recv(self.plan.upload_bytes(number) as usize)?;
        let content = content(&message, self.name, (step, Party::Client));
        let foreign = RuntimeError::ForeignUpload { step, inference: self.name };
        let mut message = Unpacker::new(content.ok_or(foreign)?);
        for &secret in &self.plan.carriers[number] {
            let carrier = Carrier::read(self.plan.section.shared(), &mut message);
            self.carriers[secret] = Some(carrier);
        }
        let (seed, carriers) = (self.seed, &self.carriers);
        Ok(threads.install(|| server_share(layer, &weights.weight, seed, carriers, &mut message)))
    }
}
