//! What can go wrong between two parties, and whose fault it is.

use crate::Refusal;
use crate::store::StoreError;
use copriv_ir::lattice::{HintError, Unlucky};
use copriv_ir::{Digest, OtKind, Party, StepId};
use std::io;

/// A failure of a session. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// This machine could not do its part: bind, connect, configure a socket, start a thread.
    #[error("cannot {what}")]
    Io {
        /// What was tried, as a verb with its object.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gives no randomness: {source}")]
    Randomness {
        /// What it said.
        source: getrandom::Error,
    },
    /// The peer or the network between went away, or was silent for longer than the time limit.
    #[error("the connection to the {peer} was lost")]
    ConnectionLost {
        /// Which party was at the other end.
        peer: Party,
        /// What the transport said.
        source: io::Error,
    },
    /// The peer speaks our protocol but broke its rules.
    #[error("the {peer} misbehaved: {what}: expected {expected}, found {found}")]
    PeerMisbehaved {
        /// Which party it claims to be.
        peer: Party,
        /// The message at fault.
        what: &'static str,
        /// What the protocol asks for.
        expected: String,
        /// What came.
        found: String,
    },
    /// Whatever is at the other end speaks another protocol.
    #[error("the peer does not speak CoPriv: it began with {}", found.escape_ascii())]
    NotCoPriv {
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// The peer speaks another version of the protocol.
    #[error("the peer speaks version {theirs} of the protocol, we speak {ours}")]
    Version {
        /// Ours.
        ours: u32,
        /// Theirs.
        theirs: u32,
    },
    /// The parties hold different plans.
    #[error(
        "the parties hold different plans: ours is {ours}, theirs {theirs}; the client needs the \
         plan.json that was compiled together with the server's weights"
    )]
    PlanMismatch {
        /// Digest of ours.
        ours: Digest,
        /// Digest of theirs.
        theirs: Digest,
    },
    /// Both ends play the same party.
    #[error("both ends want to be the {role}")]
    RoleClash {
        /// The role that both want.
        role: Party,
    },
    /// The peer gave up the session on purpose.
    #[error("the {peer} ended the session")]
    PeerAborted {
        /// Which party it was.
        peer: Party,
    },
    /// The server's weights belong to another plan.
    #[error(
        "the weights belong to plan {weights}, not to plan {plan}; both come from one compilation"
    )]
    ForeignWeights {
        /// Digest of the plan.
        plan: Digest,
        /// Digest of the plan that the weights name.
        weights: Digest,
    },
    /// A factor of the server's matrices does not fit the width that the plan gives it.
    #[error("step {} has weights wider than the plan's {bits} bits", step.0)]
    WideWeights {
        /// The step.
        step: StepId,
        /// Width in the plan, after the filter transform.
        bits: u32,
    },
    /// The plan has lattice correlations and the client was not given their hint.
    #[error("the plan needs its hint, the file hint.bin beside plan.json")]
    NoHint,
    /// The hint belongs to another plan.
    #[error("the hint has digest {found}, but the plan needs that with digest {expected}")]
    ForeignHint {
        /// Digest that the plan names.
        expected: Digest,
        /// Digest of the hint.
        found: Digest,
    },
    /// The plan has lattice correlations and the server's weights lack the secret of its hint.
    #[error("the server's weights lack the secret that the plan's hint was made with")]
    NoLatticeSeed,
    /// The upload of a lattice correlation is not of this inference: it was sent before, or to somebody else, or damaged.
    #[error("step {}: the upload is damaged or not of inference {inference} of this session", step.0)]
    ForeignUpload {
        /// The step.
        step: StepId,
        /// The name of the inference that is being prepared.
        inference: Digest,
    },
    /// The reply in a lattice correlation is not to this inference's upload, or damaged.
    #[error("step {}: the reply is damaged or not of inference {inference} of this session", step.0)]
    ForeignReply {
        /// The step.
        step: StepId,
        /// The name of the inference that is being prepared.
        inference: Digest,
    },
    /// The server's weights are larger than what the plan's replies are flooded for.
    #[error("{source}")]
    LargeWeights {
        /// Which.
        source: HintError,
    },
    /// The plan's lattice parameters do not fit its rings and weights.
    #[error("{source}")]
    UnfitLattice {
        /// What was tried.
        source: Unlucky,
    },
    /// A protocol draws on an OT extension that the session was not set up for.
    #[error("the session has no set-up for {kind} transfers")]
    NotSetUp {
        /// The extension.
        kind: OtKind,
    },
    /// A protocol draws more silent transfers than were made ready for its step.
    #[error("{wanted} silent transfers are drawn where {left} are ready")]
    NotReserved {
        /// Transfers drawn.
        wanted: usize,
        /// Transfers ready.
        left: usize,
    },
    /// The image has another size than the plan's input.
    #[error("the plan takes an image of {expected} values, not {found}")]
    ImageSize {
        /// Values of the plan's input.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// The correlations were made in another session.
    #[error("the inference was prepared in another session")]
    ForeignPreparation,
    /// More inferences are prepared than a server keeps.
    #[error("{limit} inferences are prepared already: run one of them first")]
    TooManyPrepared {
        /// As many as a server keeps.
        limit: usize,
    },
    /// Something is wrong with this party's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server refuses to work with stores.
    #[error("the server refuses: {reason}")]
    Refused {
        /// Why.
        reason: Refusal,
    },
    /// The client's store has nothing that this server would run.
    #[error(
        "no prepared inference is left for this plan and this server's store ({}): make some with `copriv prepare`",
        why_none([*held, *unreadable], *refused, *last)
    )]
    NothingPrepared {
        /// Records in the client's store that are for other plans or servers.
        held: usize,
        /// Records in it that cannot be read.
        unreadable: usize,
        /// Records that this server refused just now; they are gone.
        refused: usize,
        /// Why it refused the last of them.
        last: Option<Refusal>,
    },
    /// The session was begun without a store.
    #[error("this session has no store of prepared inferences")]
    NoStore,
    /// An earlier call failed; nothing more can be done in this session.
    #[error("the session has failed before: begin another")]
    SessionOver,
}

fn why_none([held, unreadable]: [usize; 2], refused: usize, last: Option<Refusal>) -> String {
    let mut others = format!("{held} are for others");
    if unreadable > 0 {
        others += &format!(", {unreadable} cannot be read");
    }
    match last {
        Some(reason) => format!("it refused {refused}: {reason}; {others}"),
        None => others,
    }
}
