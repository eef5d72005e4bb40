//! The server's side of a session.

use super::handshake::handshake;
use super::offline::{self, Correlations};
use super::online;
use super::role::ServerRole;
use super::stored;
use super::transfers::Transfers;
use super::{MAX_PREPARED, abort};
use crate::linear::ServerLinear;
use crate::ot::Prg;
use crate::store::{MAX_NUMBER, RecordId, Store, StoreId};
use crate::threads::Threads;
use crate::{Channel, Control, Refusal, RuntimeError};
use copriv_ir::{CommTable, Digest, Plan, ServerWeights, ValueId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A session with one client, as the server.
pub struct ServerSession<'a> {
    plan: Arc<Plan>,
    role: ServerRole<'a>,
    channel: Channel,
    transfers: Transfers,
    store: Option<Arc<Store>>,
    /// The client's store, once it has named it.
    client_store: Option<StoreId>,
    /// Correlations not yet used, by the number of their inference.
    prepared: BTreeMap<u32, Correlations<ServerLinear>>,
    /// Number of the next inference to prepare.
    next: u32,
    over: bool,
}

impl<'a> ServerSession<'a> {
    /// Agrees with the client on the plan.
    ///
    /// # Errors
    /// [`RuntimeError::ForeignWeights`] and [`RuntimeError::NoLatticeSeed`] where `weights` are not those of `plan`; see also
    /// [`super::ClientSession::connect`].
    pub fn accept(
        channel: Channel,
        plan: Arc<Plan>,
        weights: &'a ServerWeights,
    ) -> Result<Self, RuntimeError> {
        Self::accept_with(channel, plan, weights, Prg::from_os()?)
    }

    /// [`Self::accept`] with randomness from `rng`: for tests, for nobody must be able to guess it.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn accept_with(
        mut channel: Channel,
        plan: Arc<Plan>,
        weights: &'a ServerWeights,
        rng: Prg,
    ) -> Result<Self, RuntimeError> {
        let digest = plan.digest();
        if weights.plan() != digest {
            return Err(RuntimeError::ForeignWeights { plan: digest, weights: weights.plan() });
        }
        let lattice = match (plan.lattice_plan(), weights.lattice_seed()) {
            (Some(lattice), Some(seed)) => Some((lattice, seed)),
            (Some(_), None) => return Err(RuntimeError::NoLatticeSeed),
            (None, _) => None,
        };
        handshake(&mut channel, &plan, None)?;
        let (reply, threads) = (plan.reply_plan(), Threads::new(1)?);
        let role = ServerRole { weights, lattice, reply, threads };
        let prepared = BTreeMap::new();
        let (transfers, store, client_store) = (Transfers::new(rng), None, None);
        Ok(Self {
            plan,
            role,
            channel,
            transfers,
            store,
            client_store,
            prepared,
            next: 0,
            over: false,
        })
    }

    /// Lets the client prepare inferences for a store, and run what is in it.
    #[must_use]
    pub fn with_store(mut self, store: Arc<Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Computes on so many threads, this one among them; on one where this is not called. Nothing else depends on
    /// it.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] where they cannot be started.
    pub fn with_threads(mut self, count: usize) -> Result<Self, RuntimeError> {
        self.role.threads = Threads::new(count)?;
        Ok(self)
    }

    /// Computes on these threads, which other sessions may share: so many sessions need no more threads than one. Nothing
    /// else depends on it.
    #[must_use]
    pub fn sharing_threads(mut self, threads: &Threads) -> Self {
        self.role.threads = threads.clone();
        self
    }

    /// Does what the client asks for until it says goodbye; how many inferences it ran.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`] where the client goes without a goodbye, [`RuntimeError::PeerAborted`]
    /// where it fails, [`RuntimeError::PeerMisbehaved`] where it breaks the protocol,
    /// [`RuntimeError::WideWeights`]; [`RuntimeError::Store`] where our store fails, beyond the one record that is asked for;
    /// [`RuntimeError::SessionOver`] if called again after one of these.
    pub fn serve(&mut self) -> Result<usize, RuntimeError> {
        if self.over {
            return Err(RuntimeError::SessionOver);
        }
        self.over = true;
        let served = self.serve_all();
        abort(&mut self.channel, served)
    }

    /// What was sent and received in this session so far.
    #[must_use]
    pub fn comm(&self) -> CommTable {
        self.channel.comm()
    }

    fn serve_all(&mut self) -> Result<usize, RuntimeError> {
        let mut inferences = 0;
        loop {
            match self.channel.recv_control()? {
                Control::Setup => self.transfers.setup(&mut self.channel, &self.plan)?,
                Control::Prepare => self.prepare()?,
                Control::Store(id) => self.meet(id)?,
                Control::Keep { number, nonce } => self.keep(number, nonce)?,
                Control::Claim { id, binding } => {
                    inferences += usize::from(self.infer_stored(id, binding)?);
                }
                word @ (Control::Kept | Control::Granted | Control::Refused(_)) => {
                    let found = format!("{word:?}");
                    return Err(self.channel.misbehaved("control word", "a request", found));
                }
                Control::Infer(number) => {
                    self.infer(number)?;
                    inferences += 1;
                }
                Control::Goodbye => return Ok(inferences),
                Control::Abort => {
                    return Err(RuntimeError::PeerAborted { peer: self.channel.party().peer() });
                }
            }
        }
    }

    fn prepare(&mut self) -> Result<(), RuntimeError> {
        if self.prepared.len() >= MAX_PREPARED {
            let expected = format!("at most {MAX_PREPARED} inferences prepared ahead");
            return Err(self.channel.misbehaved("control word", expected, "one more"));
        }
        let correlations = self.correlations()?;
        self.prepared.insert(self.next, correlations);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    fn infer(&mut self, number: u32) -> Result<(), RuntimeError> {
        let Some(correlations) = self.prepared.remove(&number) else {
            let found = format!("number {number}");
            return Err(self.channel.misbehaved("control word", "a prepared inference", found));
        };
        self.run(correlations)
    }

    /// Runs the offline phase.
    fn correlations(&mut self) -> Result<Correlations<ServerLinear>, RuntimeError> {
        let Self { plan, role, channel, transfers, .. } = self;
        let Some(ots) = transfers.ready() else {
            return Err(channel.misbehaved("control word", "base transfers first", "none"));
        };
        offline::prepare(role, channel, ots, plan, &mut |_, _, _| ())
    }

    /// Runs the online phase.
    fn run(&mut self, correlations: Correlations<ServerLinear>) -> Result<(), RuntimeError> {
        let Self { plan, role, channel, .. } = self;
        // The image is the client's alone: the server's share of it is zero.
        let input = Zeroizing::new(vec![0; plan.fact(ValueId(0)).shape.elements()]);
        online::run(role, channel, plan, (input, correlations), &mut |_, _, _| ())?;
        Ok(())
    }

    /// The client names its store: we name ours.
    fn meet(&mut self, id: StoreId) -> Result<(), RuntimeError> {
        self.client_store = Some(id);
        let answer = match &self.store {
            Some(store) => Control::Store(store.id()),
            None => Control::Refused(Refusal::NoStore),
        };
        self.channel.send_control(answer)
    }

    /// Prepares an inference that waits in both stores.
    fn keep(&mut self, least: u64, theirs: [u8; 16]) -> Result<(), RuntimeError> {
        let (Some(store), Some(client)) = (self.store.clone(), self.client_store) else {
            return Err(self.channel.misbehaved("control word", "stores on both sides", "none"));
        };
        if least > MAX_NUMBER {
            let found = format!("number {least}");
            return Err(self.channel.misbehaved("control word", "a number below 2^62", found));
        }
        let (number, nonce) = (store.reserve(client, least)?, stored::nonce()?);
        self.channel.send_control(Control::Keep { number, nonce })?;
        let correlations = self.correlations()?;
        let stores = [store.id(), client];
        let party = self.channel.party();
        let (info, payload) =
            stored::lay_down(&self.plan, party, (stores, number, [nonce, theirs]), correlations);
        // The client's half is on disk before ours: what it has not, it will never ask for.
        let word = self.channel.recv_control()?;
        stored::expect(&self.channel, word, Control::Kept)?;
        store.keep(&info, &payload)?;
        self.channel.send_control(Control::Kept)
    }

    /// Runs an inference from the store; whether it was there.
    fn infer_stored(&mut self, id: RecordId, binding: Digest) -> Result<bool, RuntimeError> {
        let claimed = match &self.store {
            Some(store) => store.claim(self.plan.digest(), id, binding),
            None => {
                self.channel.send_control(Control::Refused(Refusal::NoStore))?;
                return Ok(false);
            }
        };
        let taken = claimed.and_then(|claimed| stored::take_up(&self.plan, claimed));
        match taken {
            Ok(correlations) => {
                self.channel.send_control(Control::Granted)?;
                self.run(correlations)?;
                Ok(true)
            }
            Err(error) => {
                let reason = stored::refusal(&error).ok_or(error)?;
                self.channel.send_control(Control::Refused(reason))?;
                Ok(false)
            }
        }
    }
}

impl fmt::Debug for ServerSession<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSession").field("plan", &self.plan.digest()).finish_non_exhaustive()
    }
}
