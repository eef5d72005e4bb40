//! The client's side of an inference's lattice correlations.

use super::message::{fresh_seed, tagged};
use crate::threads::Threads;
use crate::{Channel, RuntimeError};
use copriv_ir::lattice::{ClientSecrets, Hint, Matrix, UPLOAD_TAG};
use copriv_ir::packing::Packer;
use copriv_ir::{Digest, LatticePlan, Party, StepId};
use zeroize::Zeroizing;

/// The secrets of one inference, until all their uploads are sent.
pub(crate) struct ClientLattice<'a> {
    plan: &'a LatticePlan,
    /// The inference that they are for.
    name: Digest,
    secrets: ClientSecrets,
    matrix: Matrix,
    /// Steps uploaded so far: each once, in order.
    sent: usize,
}

impl<'a> ClientLattice<'a> {
    /// Draws the secrets of the inference of this name from the operating system's randomness.
    ///
    /// # Errors
    /// [`RuntimeError::Randomness`]; [`RuntimeError::UnfitLattice`].
    pub(crate) fn draw(
        (plan, name): (&'a LatticePlan, Digest),
        hint: &Hint,
        threads: &Threads,
    ) -> Result<Self, RuntimeError> {
        let (shared, seed) = (plan.section.shared(), fresh_seed()?);
        let secrets = threads
            .install(|| ClientSecrets::draw(seed, shared, &plan.steps, hint))
            .map_err(|source| RuntimeError::UnfitLattice { source })?;
        let matrix = Matrix::new(shared.set, &plan.section.seed);
        Ok(Self { plan, name, secrets, matrix, sent: 0 })
    }

    /// Sends the upload of the next step, which must be `step`; its mask `R` and share `T`. For a step that takes an earlier one's
    /// upload nothing is sent, and the mask is empty.
    ///
    /// # Errors
    /// As [`Channel::send`].
    ///
    /// # Panics
    /// Where the plan's next lattice step is another one.
    #[expect(clippy::type_complexity, reason = "the two halves of a correlation")]
    pub(crate) fn upload(
        &mut self,
        (channel, threads): (&mut Channel, &Threads),
        step: StepId,
    ) -> Result<(Zeroizing<Vec<u64>>, Zeroizing<Vec<u64>>), RuntimeError> {
        let number = self.sent;
        self.sent += 1;
        let layer = &self.plan.steps[number];
        assert_eq!(layer.id(), step, "steps are prepared in the order of the plan");
        if layer.is_shared() {
            return Ok((Zeroizing::default(), self.secrets.take_share(number)));
        }
        let shared = self.plan.section.shared();
        let mut message = Packer::with_capacity(self.plan.upload_bytes(number) as usize);
        message.push_bytes(&[0; UPLOAD_TAG], 8 * UPLOAD_TAG);
        for &secret in &self.plan.carriers[number] {
            self.secrets.carrier(secret, shared, &self.matrix, &mut message);
        }
        let (secrets, seed) = (&self.secrets, &self.plan.section.seed);
        let mask = threads.install(|| secrets.upload(layer, seed, &mut message));
        channel.send(&tagged(message.finish(), self.name, (step, Party::Client)))?;
        Ok((mask, self.secrets.take_share(number)))
    }
}
