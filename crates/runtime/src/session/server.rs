//! The server's side of a session.

use super::handshake::handshake;
use super::offline::{self, Correlations};
use super::online;
use super::role::ServerRole;
use super::{MAX_PREPARED, abort};
use crate::linear::ServerLinear;
use crate::ot::{Ots, Prg};
use crate::threads::Threads;
use crate::{Channel, Control, RuntimeError};
use copriv_ir::{CommTable, Plan, ServerWeights, ValueId, cost};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A session with one client, as the server.
pub struct ServerSession<'a> {
    plan: Arc<Plan>,
    role: ServerRole<'a>,
    channel: Channel,
    ots: Ots,
    /// Correlations not yet used, by the number of their inference.
    prepared: BTreeMap<u32, Correlations<ServerLinear>>,
    /// Number of the next inference to prepare.
    next: u32,
    over: bool,
}

impl<'a> ServerSession<'a> {
    /// Agrees with the client on the plan and sets up oblivious transfer.
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
        handshake(&mut channel, &plan)?;
        let setup = Ots::setup(&mut channel, rng, &cost::ot_use(&plan));
        let ots = abort(&mut channel, setup)?;
        channel.flush()?;
        let role = ServerRole { weights, lattice, threads: Threads::new(1)? };
        let prepared = BTreeMap::new();
        Ok(Self { plan, role, channel, ots, prepared, next: 0, over: false })
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

    /// Does what the client asks for until it says goodbye; how many inferences it ran.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`] where the client goes without a goodbye, [`RuntimeError::PeerAborted`]
    /// where it fails, [`RuntimeError::PeerMisbehaved`] where it breaks the protocol,
    /// [`RuntimeError::WideWeights`]; [`RuntimeError::SessionOver`] if called again after one of these.
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
                Control::Prepare => self.prepare()?,
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
        let Self { plan, role, channel, ots, .. } = self;
        let correlations = offline::prepare(role, channel, ots, plan, &mut |_, _, _| ())?;
        self.prepared.insert(self.next, correlations);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    fn infer(&mut self, number: u32) -> Result<(), RuntimeError> {
        let Some(correlations) = self.prepared.remove(&number) else {
            let found = format!("number {number}");
            return Err(self.channel.misbehaved("control word", "a prepared inference", found));
        };
        let Self { plan, role, channel, .. } = self;
        // The image is the client's alone: the server's share of it is zero.
        let input = Zeroizing::new(vec![0; plan.fact(ValueId(0)).shape.elements()]);
        online::run(role, channel, plan, (input, correlations), &mut |_, _, _| ())?;
        Ok(())
    }
}

impl fmt::Debug for ServerSession<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSession").field("plan", &self.plan.digest()).finish_non_exhaustive()
    }
}
