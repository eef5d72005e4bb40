//! The client's side of a session.

use super::handshake::handshake;
use super::inference::Inference;
use super::offline::{self, Correlations};
use super::online;
use super::role::ClientRole;
use super::transfers::Transfers;
use super::{MAX_PREPARED, Progress, abort};
use crate::linear::ClientLinear;
use crate::ot::Prg;
use crate::store::{Store, StoreId};
use crate::threads::Threads;
use crate::{Channel, Control, RuntimeError};
use copriv_ir::evaluate::quantise_input;
use copriv_ir::lattice::Hint;
use copriv_ir::{Answer, CommTable, Plan, ValueId, class_of_digits};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use zeroize::Zeroizing;

/// A session with a server, as the client.
pub struct ClientSession {
    plan: Arc<Plan>,
    role: ClientRole,
    pub(super) channel: Channel,
    transfers: Transfers,
    /// Our store, and the name of the server's.
    pub(super) stores: Option<(Arc<Store>, StoreId)>,
    /// What setting up cost, until the first inference takes it over.
    setup: (CommTable, f64),
    /// Tells this session's preparations from another's.
    tag: u64,
    /// Number of the next inference to prepare.
    next: u32,
    /// Inferences run.
    run: u32,
    over: bool,
}

/// An inference of which all is made but the online phase. To be used once, in its own session.
///
/// One that is dropped instead takes up one of [`MAX_PREPARED`] places until the session ends.
pub struct Prepared {
    tag: u64,
    number: u32,
    correlations: Correlations<ClientLinear>,
    comm: CommTable,
    seconds: f64,
    bytes: u64,
}

/// Why an inference was not run.
#[derive(Debug)]
pub struct InferError {
    /// The failure.
    pub error: RuntimeError,
    /// What was prepared for it, where that is still as good as it was.
    pub prepared: Option<Box<Prepared>>,
}

impl ClientSession {
    /// Agrees with the server on the plan and sets up oblivious transfer.
    ///
    /// # Errors
    /// [`RuntimeError::NotCoPriv`], [`RuntimeError::Version`], [`RuntimeError::RoleClash`],
    /// [`RuntimeError::PlanMismatch`] where the other end is not a server of this plan;
    /// [`RuntimeError::ConnectionLost`], [`RuntimeError::PeerMisbehaved`], [`RuntimeError::Randomness`].
    pub fn connect(channel: Channel, plan: Arc<Plan>) -> Result<Self, RuntimeError> {
        Self::connect_with(channel, plan, Prg::from_os()?)
    }

    /// [`Self::connect`] with randomness from `rng`: for tests, for nobody must be able to guess it.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_with(
        mut channel: Channel,
        plan: Arc<Plan>,
        mut rng: Prg,
    ) -> Result<Self, RuntimeError> {
        let start = Instant::now();
        let tag = rng.next_u64();
        handshake(&mut channel, &plan, Some(Control::Setup))?;
        let mut transfers = Transfers::new(rng);
        let setup = transfers.setup(&mut channel, &plan);
        abort(&mut channel, setup)?;
        let setup = (channel.take_comm()?, start.elapsed().as_secs_f64());
        Self::begin((plan, channel), (transfers, None), setup, tag)
    }

    /// Agrees with the server on the plan and on both parties' stores of prepared inferences. Oblivious transfer
    /// is set up only once something is prepared.
    ///
    /// # Errors
    /// As [`Self::connect`]; [`RuntimeError::Refused`] where the server keeps no store.
    pub fn connect_stored(
        mut channel: Channel,
        plan: Arc<Plan>,
        store: Arc<Store>,
    ) -> Result<Self, RuntimeError> {
        let start = Instant::now();
        let mut rng = Prg::from_os()?;
        let tag = rng.next_u64();
        handshake(&mut channel, &plan, Some(Control::Store(store.id())))?;
        let theirs = match channel.recv_control()? {
            Control::Store(theirs) => theirs,
            Control::Refused(reason) => {
                channel.send_control(Control::Goodbye)?;
                return Err(RuntimeError::Refused { reason });
            }
            word => {
                let error = channel.misbehaved("control word", "a store", format!("{word:?}"));
                return abort(&mut channel, Err(error));
            }
        };
        let (transfers, stores) = (Transfers::new(rng), Some((store, theirs)));
        let setup = (channel.take_comm()?, start.elapsed().as_secs_f64());
        Self::begin((plan, channel), (transfers, stores), setup, tag)
    }

    /// A session in which nothing has been prepared yet.
    fn begin(
        (plan, channel): (Arc<Plan>, Channel),
        (transfers, stores): (Transfers, Option<(Arc<Store>, StoreId)>),
        setup: (CommTable, f64),
        tag: u64,
    ) -> Result<Self, RuntimeError> {
        let (lattice, reply) = (plan.lattice_plan(), plan.reply_plan());
        let role = ClientRole { lattice, reply, hint: None, threads: Threads::new(1)? };
        let (next, run, over) = (0, 0, false);
        Ok(Self { plan, role, channel, transfers, stores, setup, tag, next, run, over })
    }

    /// Gives the session the hint that a plan with lattice correlations needs.
    ///
    /// # Errors
    /// [`RuntimeError::ForeignHint`] where it is not the plan's.
    pub fn set_hint(&mut self, hint: Arc<Hint>) -> Result<(), RuntimeError> {
        let (expected, found) = (self.plan.lattice().map(|lattice| lattice.hint), hint.digest());
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(RuntimeError::ForeignHint { expected, found });
        }
        self.role.hint = Some(hint);
        Ok(())
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

    /// The plan of this session.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Makes the correlations of one inference, for which no image is needed.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`], [`RuntimeError::PeerAborted`], [`RuntimeError::PeerMisbehaved`], after
    /// which every call fails with [`RuntimeError::SessionOver`]; [`RuntimeError::TooManyPrepared`] and
    /// [`RuntimeError::NoHint`], which do no harm.
    pub fn prepare(&mut self, progress: Progress<'_>) -> Result<Prepared, RuntimeError> {
        if (self.next - self.run) as usize >= MAX_PREPARED {
            return Err(RuntimeError::TooManyPrepared { limit: MAX_PREPARED });
        }
        self.check_hint()?;
        let start = Instant::now();
        let (correlations, comm, bytes) = self.attempt(|session| {
            session.set_up()?;
            session.channel.send_control(Control::Prepare)?;
            session.correlations(progress)
        })?;
        let number = self.next;
        self.next += 1;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Prepared { tag: self.tag, number, correlations, comm, seconds, bytes })
    }

    /// Runs a prepared inference on an image, normalised and channel-major as
    /// [`InputSpec::normalise`](copriv_ir::InputSpec::normalise) gives it.
    ///
    /// # Errors
    /// As [`Self::prepare`]; [`RuntimeError::ImageSize`] and [`RuntimeError::ForeignPreparation`], which do no
    /// harm to the session and give back what was prepared.
    pub fn infer(
        &mut self,
        prepared: Prepared,
        image: &[f32],
        progress: Progress<'_>,
    ) -> Result<Inference, InferError> {
        if let Err(error) = self.check_tag(&prepared).and_then(|()| self.check_size(image)) {
            return Err(InferError { error, prepared: Some(Box::new(prepared)) });
        }
        let Prepared { number, correlations, mut comm, seconds, bytes, .. } = prepared;
        let start = Instant::now();
        let mut progress = |phase, step, online| progress(phase, step, bytes + online);
        let (revealed, online) = self.attempt(|session| {
            session.channel.send_control(Control::Infer(number))?;
            session.online(correlations, image, &mut progress)
        })?;
        self.run += 1;
        merge(&mut comm, &online);
        let setup_seconds = self.book_setup(&mut comm);
        let seconds = [setup_seconds, seconds, start.elapsed().as_secs_f64()];
        Ok(self.inference(&revealed, comm, seconds))
    }

    /// Ends the session in good order.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`]; [`RuntimeError::SessionOver`] where an earlier call failed.
    pub fn goodbye(mut self) -> Result<(), RuntimeError> {
        self.attempt(|session| session.channel.send_control(Control::Goodbye))
    }

    /// Runs the offline phase: the correlations, its traffic and its bytes.
    pub(super) fn correlations(
        &mut self,
        progress: Progress<'_>,
    ) -> Result<(Correlations<ClientLinear>, CommTable, u64), RuntimeError> {
        let before = self.channel.bytes();
        let Self { plan, role, channel, transfers, .. } = self;
        let ots = transfers.ready().ok_or(RuntimeError::SessionOver)?;
        let correlations = offline::prepare(role, channel, ots, plan, progress)?;
        Ok((correlations, channel.take_comm()?, channel.bytes() - before))
    }

    /// Runs the online phase: what it revealed and its traffic.
    pub(super) fn online(
        &mut self,
        correlations: Correlations<ClientLinear>,
        image: &[f32],
        progress: Progress<'_>,
    ) -> Result<(Vec<u64>, CommTable), RuntimeError> {
        let Self { plan, role, channel, .. } = self;
        let input = Zeroizing::new(quantise_input(plan.fact(ValueId(0)), image));
        let revealed = online::run(role, channel, plan, (input, correlations), progress)?;
        let revealed = revealed.unwrap_or_default();
        check_class(channel, plan, &revealed)?;
        Ok((revealed, channel.take_comm()?))
    }

    /// Sets up oblivious transfer, if that is still to be done.
    pub(super) fn set_up(&mut self) -> Result<(), RuntimeError> {
        if self.transfers.ready().is_some() {
            return Ok(());
        }
        let start = Instant::now();
        self.channel.send_control(Control::Setup)?;
        self.transfers.setup(&mut self.channel, &self.plan)?;
        merge(&mut self.setup.0, &self.channel.take_comm()?);
        self.setup.1 += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Adds what setting up has cost, unless it was taken before; its seconds.
    pub(super) fn book_setup(&mut self, comm: &mut CommTable) -> f64 {
        let (setup, seconds) = std::mem::take(&mut self.setup);
        merge(comm, &setup);
        seconds
    }

    /// Whether the hint is there that the plan needs.
    pub(super) fn check_hint(&self) -> Result<(), RuntimeError> {
        let missing = self.role.lattice.is_some() && self.role.hint.is_none();
        if missing { Err(RuntimeError::NoHint) } else { Ok(()) }
    }

    /// Whether something was prepared in this session.
    fn check_tag(&self, prepared: &Prepared) -> Result<(), RuntimeError> {
        if prepared.tag == self.tag { Ok(()) } else { Err(RuntimeError::ForeignPreparation) }
    }

    /// Whether an image is as large as the plan's input.
    pub(super) fn check_size(&self, image: &[f32]) -> Result<(), RuntimeError> {
        let (expected, found) = (self.plan.fact(ValueId(0)).shape.elements(), image.len());
        if expected == found { Ok(()) } else { Err(RuntimeError::ImageSize { expected, found }) }
    }

    pub(super) fn inference(
        &self,
        revealed: &[u64],
        comm: CommTable,
        seconds: [f64; 3],
    ) -> Inference {
        let (ring, scale) =
            self.plan.values().last().map_or((None, 0), |fact| (Some(fact.ring), fact.scale));
        let class = match self.plan.answer() {
            Answer::Logits => None,
            Answer::Class { .. } => Some(class_of_digits(revealed)),
        };
        let revealed = revealed.iter().filter_map(|&x| Some(ring?.to_signed(x))).collect();
        Inference { revealed, class, scale, comm, seconds }
    }

    /// Does something that leaves the session unusable where it fails.
    pub(super) fn attempt<T>(
        &mut self,
        action: impl FnOnce(&mut Self) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        if self.over {
            return Err(RuntimeError::SessionOver);
        }
        let result = action(self);
        self.over = result.is_err();
        abort(&mut self.channel, result)
    }
}

/// Whether a revealed class is one of the plan's.
fn check_class(channel: &Channel, plan: &Plan, revealed: &[u64]) -> Result<(), RuntimeError> {
    let Answer::Class { logits } = plan.answer() else { return Ok(()) };
    let (class, classes) = (class_of_digits(revealed), plan.fact(logits).shape.elements());
    if class < classes {
        return Ok(());
    }
    let expected = format!("one of {classes}");
    Err(channel.misbehaved("revealed class", expected, format!("number {class}")))
}

/// Adds one table to another.
fn merge(sum: &mut CommTable, other: &CommTable) {
    other.entries().for_each(|(step, phase, traffic)| sum.book(step, phase, traffic));
}

impl From<RuntimeError> for InferError {
    fn from(error: RuntimeError) -> Self {
        Self { error, prepared: None }
    }
}

impl From<InferError> for RuntimeError {
    fn from(failed: InferError) -> Self {
        failed.error
    }
}

impl fmt::Display for InferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for InferError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession").field("plan", &self.plan.digest()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("number", &self.number).finish_non_exhaustive()
    }
}
