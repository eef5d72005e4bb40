//! The server's side of an inference's lattice correlations.

use super::message::content;
use crate::threads::Threads;
use crate::{Channel, RuntimeError};
use copriv_ir::lattice::{Carrier, SecretSeed, Upload, server_share};
use copriv_ir::packing::Unpacker;
use copriv_ir::{Digest, LatticePlan, LinearWeights, Party, StepId};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// What the server remembers from one upload of an inference to the next.
pub(crate) struct ServerLattice<'a> {
    plan: &'a LatticePlan,
    seed: &'a SecretSeed,
    /// The inference that uploads must be of.
    name: Digest,
    carriers: Vec<Option<Carrier>>,
    /// Uploads that later steps take too.
    kept: BTreeMap<StepId, Upload>,
    /// Steps received so far.
    received: usize,
}

impl<'a> ServerLattice<'a> {
    /// For the inference of this name; `seed` is the secret that the hint was made with.
    pub(crate) fn new(plan: &'a LatticePlan, seed: &'a SecretSeed, name: Digest) -> Self {
        let carriers = (0..plan.section.secrets).map(|_| None).collect();
        Self { plan, seed, name, carriers, kept: BTreeMap::new(), received: 0 }
    }

    /// Receives the upload of the next step, which must be `step`, or takes up an earlier one's; its share `S`.
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
        if !layer.is_shared() {
            let upload = self.upload(channel, number)?;
            self.kept.insert(step, upload);
        }
        let upload = &self.kept[&layer.source()];
        let (seed, carriers) = (self.seed, &self.carriers);
        let share =
            threads.install(|| server_share(layer, &weights.weight, seed, carriers, upload));
        let later = &self.plan.steps[self.received..];
        self.kept.retain(|id, _| later.iter().any(|step| step.source() == *id));
        Ok(share)
    }

    /// The upload of step number `number`, after its carriers.
    fn upload(&mut self, channel: &mut Channel, number: usize) -> Result<Upload, RuntimeError> {
        let (layer, step) = (&self.plan.steps[number], self.plan.steps[number].id());
        let message = channel.recv(self.plan.upload_bytes(number) as usize)?;
        let content = content(&message, self.name, (step, Party::Client));
        let foreign = RuntimeError::ForeignUpload { step, inference: self.name };
        let mut message = Unpacker::new(content.ok_or(foreign)?);
        for &secret in &self.plan.carriers[number] {
            let carrier = Carrier::read(self.plan.section.shared(), &mut message);
            self.carriers[secret] = Some(carrier);
        }
        Ok(layer.read_upload(&mut message))
    }
}
