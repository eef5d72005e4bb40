//! Inferences that wait in both parties' stores.

use super::offline::Correlations;
use super::{ClientSession, Inference, Progress};
use crate::linear::LinearLayer;
use crate::store::{
    Claimed, MAX_NUMBER, RecordInfo, RecordReader, RecordWriter, Store, StoreError, StoreId, Stored,
};
use crate::{Channel, Control, Refusal, RuntimeError};
use copriv_ir::{CommTable, Party, Plan, cost};
use std::sync::Arc;
use std::time::Instant;
use zeroize::Zeroizing;

/// An inference prepared for the stores.
#[derive(Debug)]
pub struct Kept {
    /// What the client's store says of it.
    pub info: RecordInfo,
    /// The traffic that it took; the session's setup is booked on its first one.
    pub comm: CommTable,
    /// Seconds of its setup and offline phase.
    pub seconds: f64,
}

impl ClientSession {
    /// Makes the correlations of one inference and keeps them in both parties' stores. When this returns, both
    /// halves are on disk.
    ///
    /// | client | | server |
    /// |---|---|---|
    /// | `Keep`: a number that it has not used, a nonce | `<->` | `Keep`: the number it shall have, a nonce |
    /// | | `<->` every step's correlation | |
    /// | its half on disk, `Kept` | `->` | its half on disk |
    /// | | `<-` | `Kept` |
    ///
    /// # Errors
    /// As [`Self::prepare`]; [`RuntimeError::Store`], [`RuntimeError::NoStore`].
    pub fn prepare_stored(&mut self, progress: Progress<'_>) -> Result<Kept, RuntimeError> {
        let (store, peer) = self.store()?;
        self.check_hint()?;
        let start = Instant::now();
        let (info, mut comm) = self.attempt(|session| {
            session.set_up()?;
            let (least, ours) = (store.reserve(peer, 0)?, nonce()?);
            session.channel.send_control(Control::Keep { number: least, nonce: ours })?;
            let (number, theirs) = match session.channel.recv_control()? {
                Control::Keep { number, nonce } if (least..=MAX_NUMBER).contains(&number) => {
                    (number, nonce)
                }
                Control::Refused(reason) => return Err(RuntimeError::Refused { reason }),
                word => {
                    let found = format!("{word:?}");
                    return Err(session.channel.misbehaved("control word", "a number", found));
                }
            };
            let (correlations, comm, _) = session.correlations(progress)?;
            let agreed = (store.beside(peer), number, [theirs, ours]);
            let (info, payload) = lay_down(session.plan(), Party::Client, agreed, correlations);
            store.keep(&info, &payload)?;
            session.channel.send_control(Control::Kept)?;
            let word = session.channel.recv_control()?;
            expect(&session.channel, word, Control::Kept)?;
            Ok((info, comm))
        })?;
        self.book_setup(&mut comm);
        Ok(Kept { info, comm, seconds: start.elapsed().as_secs_f64() })
    }

    /// Runs the next inference of both parties' stores on an image (see [`Self::infer`]): only online traffic. A record
    /// that the server refuses is of no use to anybody; the next one is tried. Where the server's store itself fails it ends
    /// the session, and all records but one are left.
    ///
    /// # Errors
    /// As [`Self::infer`]; [`RuntimeError::Store`], [`RuntimeError::NoStore`];
    /// [`RuntimeError::NothingPrepared`], which does no harm to the session.
    pub fn infer_stored(
        &mut self,
        image: &[f32],
        progress: Progress<'_>,
    ) -> Result<Inference, RuntimeError> {
        let (store, peer) = self.store()?;
        self.check_size(image)?;
        let start = Instant::now();
        let correlations = self.attempt(|session| session.claim(&store, peer))?;
        let correlations = correlations.map_err(|(refused, last)| {
            let left = Store::list(store.folder());
            let [held, unreadable] =
                left.map_or([0, 0], |left| [left.records.len(), left.unreadable.len()]);
            RuntimeError::NothingPrepared { held, unreadable, refused, last }
        })?;
        let (revealed, mut comm) =
            self.attempt(|session| session.online(correlations, image, progress))?;
        let setup = self.book_setup(&mut comm);
        Ok(self.inference(&revealed, comm, [setup, 0.0, start.elapsed().as_secs_f64()]))
    }

    /// Claims records until the server grants one; its correlations, or how many it refused and why the last.
    #[allow(clippy::type_complexity, reason = "an error within an error, read at one place")]
    fn claim(
        &mut self,
        store: &Store,
        peer: StoreId,
    ) -> Result<
        Result<Correlations<crate::linear::ClientLinear>, (usize, Option<Refusal>)>,
        RuntimeError,
    > {
        let (mut refused, mut last) = (0, None);
        // Its number is burnt at our side before the server hears of it.
        while let Some(claimed) = store.claim_next(self.plan().digest(), peer)? {
            let RecordInfo { id, binding, .. } = *claimed.info();
            let correlations = take_up(self.plan(), claimed)?;
            self.channel.send_control(Control::Claim { id, binding })?;
            match self.channel.recv_control()? {
                Control::Granted => return Ok(Ok(correlations)),
                Control::Refused(reason) => (refused, last) = (refused + 1, Some(reason)),
                word => {
                    let found = format!("{word:?}");
                    return Err(self.channel.misbehaved("control word", "Granted", found));
                }
            }
        }
        Ok(Err((refused, last)))
    }

    fn store(&self) -> Result<(Arc<Store>, StoreId), RuntimeError> {
        let (store, peer) = self.stores.as_ref().ok_or(RuntimeError::NoStore)?;
        Ok((Arc::clone(store), *peer))
    }
}

/// A nonce from the operating system.
pub(super) fn nonce() -> Result<[u8; 16], RuntimeError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|source| RuntimeError::Randomness { source })?;
    Ok(nonce)
}

/// A party's half of a record, as it goes to disk: for both stores, with its number and both nonces.
pub(super) fn lay_down<L: Stored<Shape = LinearLayer>>(
    plan: &Plan,
    party: Party,
    (stores, number, nonces): ([StoreId; 2], u64, [[u8; 16]; 2]),
    correlations: Correlations<L>,
) -> (RecordInfo, Zeroizing<Vec<u8>>) {
    let predicted = usize::try_from(cost::stored::record(plan, party)).unwrap_or_default();
    let mut writer = RecordWriter::with_capacity(predicted);
    correlations.store(&mut writer);
    let payload = writer.finish();
    let len = payload.len() as u64;
    (RecordInfo::agree((plan.digest(), party), stores, number, nonces, len), payload)
}

/// The correlations of a record that was claimed for this plan.
pub(super) fn take_up<L: Stored<Shape = LinearLayer>>(
    plan: &Plan,
    claimed: Claimed,
) -> Result<Correlations<L>, StoreError> {
    let info = claimed.info().clone();
    let wrong = |found: String| StoreError::Size {
        id: info.id,
        expected: cost::stored::record(plan, info.party),
        found,
    };
    let (_burnt, payload) = claimed.into_parts();
    let mut reader = RecordReader::new(info.party, &payload);
    let bytes = || wrong(format!("{} bytes", payload.len()));
    let correlations = Correlations::restore(plan, &mut reader).map_err(|_| bytes())?;
    if reader.is_at_end() { Ok(correlations) } else { Err(bytes()) }
}

/// What the client is told where it is the record that cannot be claimed; `None` where our store or machine fails, so that
/// the client's next record would fare no better.
pub(super) fn refusal(error: &StoreError) -> Option<Refusal> {
    match error {
        StoreError::Unknown { .. } => Some(Refusal::Unknown),
        StoreError::Used { .. } => Some(Refusal::Used),
        StoreError::Mismatch { .. }
        | StoreError::ForeignPlan { .. }
        | StoreError::ForeignStore { .. } => Some(Refusal::Mismatch),
        StoreError::Damaged { .. } | StoreError::Size { .. } => Some(Refusal::Damaged),
        StoreError::Io { .. }
        | StoreError::Randomness { .. }
        | StoreError::DamagedLedger { .. }
        | StoreError::NoLedger { .. }
        | StoreError::NoStore { .. }
        | StoreError::ForeignParty { .. }
        | StoreError::OutOfNumbers { .. } => None,
    }
}

/// Whether the peer said what the protocol asks for.
pub(super) fn expect(
    channel: &Channel,
    word: Control,
    expected: Control,
) -> Result<(), RuntimeError> {
    if word == expected {
        return Ok(());
    }
    let (expected, found) = (format!("{expected:?}"), format!("{word:?}"));
    Err(channel.misbehaved("control word", expected, found))
}
