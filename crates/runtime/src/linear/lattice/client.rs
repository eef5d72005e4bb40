//! The client's side of an inference's lattice correlations.

use crate::{Channel, RuntimeError};
use copriv_ir::lattice::{ClientSecrets, Hint, Matrix, SecretSeed};
use copriv_ir::packing::Packer;
use copriv_ir::{LatticePlan, StepId};
use zeroize::Zeroizing;

/// The secrets of one inference, until all their uploads are sent.
pub(crate) struct ClientLattice<'a> {
    plan: &'a LatticePlan,
    secrets: ClientSecrets,
    matrix: Matrix,
    /// Steps uploaded so far: each once, in order.
    sent: usize,
}

impl<'a> ClientLattice<'a> {
    /// Draws the secrets of an inference from the operating system's randomness.
    ///
    /// # Errors
    /// [`RuntimeError::Randomness`]; [`RuntimeError::UnfitLattice`].
    pub(crate) fn draw(plan: &'a LatticePlan, hint: &Hint) -> Result<Self, RuntimeError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|source| RuntimeError::Randomness { source })?;
        let shared = plan.section.shared();
        let secrets = ClientSecrets::draw(SecretSeed::new(*seed), shared, &plan.steps, hint)
            .map_err(|source| RuntimeError::UnfitLattice { source })?;
        let matrix = Matrix::new(shared.set, &plan.section.seed);
        Ok(Self { plan, secrets, matrix, sent: 0 })
    }

    /// Sends the upload of the next step, which must be `step`; its mask `R` and share `T`.
    ///
    /// # Errors
    /// As [`Channel::send`].
    ///
    /// # Panics
    /// Where the plan's next lattice step is another one.
    #[expect(clippy::type_complexity, reason = "the two halves of a correlation")]
    pub(crate) fn upload(
        &mut self,
        channel: &mut Channel,
        step: StepId,
    ) -> Result<(Zeroizing<Vec<u64>>, Zeroizing<Vec<u64>>), RuntimeError> {
        let number = self.sent;
        self.sent += 1;
        let layer = &self.plan.steps[number];
        assert_eq!(layer.id(), step, "steps are prepared in the order of the plan");
        let shared = self.plan.section.shared();
        let mut message = Packer::with_capacity(self.plan.upload_bytes(number) as usize);
        for &secret in &self.plan.carriers[number] {
            self.secrets.carrier(secret, shared, &self.matrix, &mut message);
        }
        let mask = self.secrets.upload(layer, &self.plan.section.seed, &mut message);
        channel.send(&message.finish())?;
        Ok((mask, self.secrets.take_share(number)))
    }
}
