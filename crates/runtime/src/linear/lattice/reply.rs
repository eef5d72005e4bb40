//! Both sides of an inference's lattice correlations with a reply.

use super::message::{content, fresh_seed, tagged};
use crate::threads::Threads;
use crate::{Channel, RuntimeError};
use copriv_ir::lattice::{ReplyKey, ReplyMasks, ReplySecret, UPLOAD_TAG, Upload};
use copriv_ir::packing::{Packer, Unpacker};
use copriv_ir::{Digest, LinearWeights, Party, ReplyPlan, StepId};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// The client's secret of one inference, until all steps have been replied to.
pub(crate) struct ClientReply<'a> {
    plan: &'a ReplyPlan,
    /// The inference that it is for.
    name: Digest,
    secret: ReplySecret,
    /// Steps done so far: each once, in order.
    done: usize,
}

impl<'a> ClientReply<'a> {
    /// Draws the secret of the inference of this name from the operating system's randomness.
    ///
    /// # Errors
    /// [`RuntimeError::Randomness`].
    pub(crate) fn draw(plan: &'a ReplyPlan, name: Digest) -> Result<Self, RuntimeError> {
        let secret = ReplySecret::new(fresh_seed()?, plan.section.carrier_rounding);
        Ok(Self { plan, name, secret, done: 0 })
    }

    /// Sends the upload of the next step, which must be `step`, and takes in the reply; mask `R` and share `T`. A step that takes an
    /// earlier one's upload only takes in the reply, and its mask is empty.
    ///
    /// # Errors
    /// [`RuntimeError::ForeignReply`] where it is damaged, or one to another upload; as [`Channel::send`] and
    /// [`Channel::recv`].
    ///
    /// # Panics
    /// Where the plan's next such step is another one.
    #[expect(clippy::type_complexity, reason = "the two halves of a correlation")]
    pub(crate) fn exchange(
        &mut self,
        (channel, threads): (&mut Channel, &Threads),
        step: StepId,
    ) -> Result<(Zeroizing<Vec<u64>>, Zeroizing<Vec<u64>>), RuntimeError> {
        let number = self.done;
        self.done += 1;
        let layer = &self.plan.steps[number];
        assert_eq!(layer.id(), step, "steps are prepared in the order of the plan");
        let [upload, reply] = self.plan.bytes(number).map(|bytes| bytes as usize);
        let (secret, seed) = (&self.secret, &self.plan.section.seed);
        let mut mask = Zeroizing::default();
        if !layer.is_shared() {
            let mut message = Packer::with_capacity(upload);
            message.push_bytes(&[0; UPLOAD_TAG], 8 * UPLOAD_TAG);
            mask = threads.install(|| {
                if number == 0 {
                    secret.carrier(seed, &mut message);
                }
                secret.upload(layer, seed, &mut message)
            });
            let message = tagged(message.finish(), self.name, (step, Party::Client));
            channel.send(&message)?;
        }
        let message = channel.recv(reply)?;
        let content = content(&message, self.name, (step, Party::Server));
        let foreign = RuntimeError::ForeignReply { step, inference: self.name };
        let content = content.ok_or(foreign)?;
        Ok((mask, threads.install(|| secret.share(layer, content))))
    }
}

/// What the server remembers from one reply of an inference to the next.
pub(crate) struct ServerReply<'a> {
    plan: &'a ReplyPlan,
    /// The inference that uploads must be of.
    name: Digest,
    masks: ReplyMasks,
    key: Option<ReplyKey>,
    /// Uploads that later steps take too.
    kept: BTreeMap<StepId, Upload>,
    /// Steps replied to so far: each once, in order.
    done: usize,
}

impl<'a> ServerReply<'a> {
    /// For the inference of this name, with masks from the operating system's randomness.
    ///
    /// # Errors
    /// [`RuntimeError::Randomness`].
    pub(crate) fn draw(plan: &'a ReplyPlan, name: Digest) -> Result<Self, RuntimeError> {
        let (masks, kept) = (ReplyMasks::new(fresh_seed()?), BTreeMap::new());
        Ok(Self { plan, name, masks, key: None, kept, done: 0 })
    }

    /// Receives the upload of the next step, which must be `step`, and replies; the server's share `S`.
    ///
    /// # Errors
    /// [`RuntimeError::ForeignUpload`] where it is damaged, or one of another step or inference; [`RuntimeError::LargeWeights`];
    /// as [`Channel::send`] and [`Channel::recv`].
    ///
    /// # Panics
    /// Where the plan's next such step is another one.
    pub(crate) fn reply(
        &mut self,
        (channel, threads): (&mut Channel, &Threads),
        step: StepId,
        weights: &LinearWeights,
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let number = self.done;
        self.done += 1;
        let layer = &self.plan.steps[number];
        assert_eq!(layer.id(), step, "steps are prepared in the order of the plan");
        let [upload, reply] = self.plan.bytes(number).map(|bytes| bytes as usize);
        if !layer.is_shared() {
            let message = channel.recv(upload)?;
            self.upload(number, &message)?;
        }
        let Self { plan, masks, key, kept, .. } = self;
        let at = (&plan.section.seed, key.as_ref().expect("the first upload has it"));
        let upload = &kept[&layer.source()];
        let mut message = Vec::with_capacity(reply);
        message.resize(UPLOAD_TAG, 0);
        let share =
            threads.install(|| masks.reply(layer, &weights.weight, at, (upload, &mut message)));
        let share = share.map_err(|source| RuntimeError::LargeWeights { source })?;
        channel.send(&tagged(message, self.name, (step, Party::Server)))?;
        let later = &plan.steps[self.done..];
        kept.retain(|id, _| later.iter().any(|step| step.source() == *id));
        Ok(share)
    }

    /// Takes in the upload of step number `number`, with the carrier where it is the first.
    fn upload(&mut self, number: usize, message: &[u8]) -> Result<(), RuntimeError> {
        let Self { plan, name, key, kept, .. } = self;
        let (layer, step) = (&plan.steps[number], plan.steps[number].id());
        let content = content(message, *name, (step, Party::Client));
        let foreign = RuntimeError::ForeignUpload { step, inference: *name };
        let mut content = Unpacker::new(content.ok_or(foreign)?);
        let (seed, rounding) = (&plan.section.seed, plan.section.carrier_rounding);
        key.get_or_insert_with(|| ReplyKey::read(seed, rounding, &mut content));
        kept.insert(step, layer.read_upload(&mut content));
        Ok(())
    }
}
