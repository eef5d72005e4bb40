//! Recorded sessions played back to one party with changes, by every kind of transfer: whatever a peer says, a party ends in
//! good time with a typed error or a result, and asks the system for no more memory than an honest session takes.

mod plans;

use copriv_ir::lattice::Hint;
use copriv_ir::{
    Activation, Comparison, ConvGeometry, Lowering, OtKind, Party, Shape, StepOp, TruncateMethod,
};
use copriv_runtime::ot::Prg;
use copriv_runtime::{
    Channel, ClientSession, MemoryTransport, RuntimeError, ServerSession, Transport,
};
use plans::{Builder, Model, image, session, with_lattice, with_replies};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Cursor, Sink, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

/// The system's memory, with a note of the largest piece that anybody asked for.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the system's condition.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: `place` came from the system's allocator with this layout.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: `place` came from the system's allocator with this layout.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static MEMORY: Watched = Watched;

/// A transport that keeps what goes out.
struct Recorded {
    line: MemoryTransport,
    said: Arc<Mutex<Vec<u8>>>,
}

struct Recorder<W> {
    writer: W,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Transport for Recorded {
    type Reader = <MemoryTransport as Transport>::Reader;
    type Writer = Recorder<<MemoryTransport as Transport>::Writer>;

    fn split(self) -> io::Result<(Self::Reader, Self::Writer)> {
        let (reader, writer) = self.line.split()?;
        Ok((reader, Recorder { writer, said: self.said }))
    }
}

impl<W: Write> Write for Recorder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.said.lock().expect("nobody panics").extend_from_slice(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A peer that says what it is told to, listens to nothing and hangs up.
struct Replay(Vec<u8>);

impl Transport for Replay {
    type Reader = Cursor<Vec<u8>>;
    type Writer = Sink;

    const WRITES_AT_ONCE: bool = true;

    fn split(self) -> io::Result<(Cursor<Vec<u8>>, Sink)> {
        Ok((Cursor::new(self.0), io::sink()))
    }
}

/// A plan and what each party said in an honest session, server first.
struct Recording {
    name: &'static str,
    model: Model,
    hint: Option<Arc<Hint>>,
    said: [Vec<u8>; 2],
}

impl Recording {
    fn new(name: &'static str, model: Model, hint: Option<Hint>) -> Self {
        let (hint, said) = (hint.map(Arc::new), [(); 2].map(|()| Arc::default()));
        let (server, client) = MemoryTransport::pair();
        let end = |line, party, said: &Arc<_>| {
            Channel::new(Recorded { line, said: Arc::clone(said) }, party).expect("threads start")
        };
        let channels = (end(server, Party::Server, &said[0]), end(client, Party::Client, &said[1]));
        let (served, inferred) =
            session(&model, channels, |session| infer(&model, hint.as_ref(), session));
        assert_eq!(served.expect("the client is honest"), 1);
        inferred.expect("the server is honest");
        let said = said.map(|said: Arc<Mutex<Vec<u8>>>| {
            std::mem::take(&mut *said.lock().expect("nobody panics"))
        });
        Self { name, model, hint, said }
    }

    /// What `party` makes of a peer that says this: all randomness is that of the recording.
    fn play(&self, party: Party, said: Vec<u8>) -> Result<(), RuntimeError> {
        let channel = Channel::new(Replay(said), party).expect("no thread is needed");
        let plan = Arc::clone(&self.model.plan);
        match party {
            Party::Server => {
                let rng = Prg::from_seed(b"server's secrets");
                let weights = &self.model.weights;
                ServerSession::accept_with(channel, plan, weights, rng)?.serve().map(drop)
            }
            Party::Client => {
                let rng = Prg::from_seed(b"client's secrets");
                let session = ClientSession::connect_with(channel, plan, rng)?;
                infer(&self.model, self.hint.as_ref(), session)
            }
        }
    }

    /// What the peer of `party` said.
    fn peer_of(&self, party: Party) -> &[u8] {
        &self.said[usize::from(party == Party::Server)]
    }
}

fn infer(
    model: &Model,
    hint: Option<&Arc<Hint>>,
    mut session: ClientSession,
) -> Result<(), RuntimeError> {
    if let Some(hint) = hint {
        session.set_hint(Arc::clone(hint))?;
    }
    let prepared = session.prepare(&mut |_, _, _| ())?;
    session.infer(prepared, &image(&model.plan, 1), &mut |_, _, _| ())?;
    session.goodbye()
}

/// Both choosers, a truncation, a ReLU and an argmax, all by one kind of transfer.
fn small(ot: OtKind, tables: bool) -> Model {
    let mut plan = Builder::new(Shape::vector(5), 26, 4, 2);
    (plan.ot, plan.tables) = (ot, tables);
    let comparison = Comparison { ot, leaf_bits: 4, tables };
    let layer = |inputs, outputs| ConvGeometry::fully_connected(inputs, outputs);
    plan.linear(layer(5, 7), Lowering::Direct, Party::Client, (4, 4));
    plan.truncate(2, 3);
    plan.activation(Activation::Relu, 4);
    plan.step(StepOp::Truncate { shift: 1, method: TruncateMethod::KnownSign(ot) });
    plan.linear(layer(7, 5), Lowering::Direct, Party::Server, (3, 3));
    plan.step(StepOp::ArgMax { comparison });
    plan.reveal()
}

fn convolution() -> Model {
    let mut plan = Builder::new(Shape::new(3, 8, 8), 26, 4, 3);
    plan.linear(ConvGeometry::same(3, 4, 3, 1), Lowering::Direct, Party::Client, (4, 26));
    plan.truncate(2, 4);
    plan.reveal()
}

static RECORDINGS: LazyLock<Vec<Recording>> = LazyLock::new(|| {
    let plain = |name, kind| Recording::new(name, small(kind, false), None);
    let (model, hint) = with_lattice(&convolution(), 5);
    vec![
        plain("iknp", OtKind::Iknp),
        plain("softspoken2", OtKind::SoftSpoken2),
        plain("softspoken4", OtKind::SoftSpoken4),
        plain("softspoken8", OtKind::SoftSpoken8),
        Recording::new("tables", small(OtKind::SoftSpoken4, true), None),
        Recording::new("lattice", model, Some(hint)),
        Recording::new("reply", with_replies(&convolution(), 5), None),
        plain("silent", OtKind::Silent),
    ]
});

/// Bytes of the handshake, which has no frame, and of a frame's header: length (4), stamp (4), kind (1).
const HELLO: usize = 48;
const HEADER: usize = 9;

/// All frames of a recording, headers included.
fn frames(said: &[u8]) -> Vec<Range<usize>> {
    let mut frames = Vec::new();
    let mut first = HELLO;
    while let Some(length) = said.get(first..first + 4) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        frames.push(first..first + HEADER + length);
        first += HEADER + length;
    }
    assert_eq!(first, said.len(), "whole frames");
    frames
}

/// A way not to say what was said. Positions and frames count modulo how many there are.
#[derive(Clone, Debug)]
enum Change {
    Flip {
        at: usize,
        mask: u8,
    },
    Cut {
        at: usize,
    },
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
    Remove {
        at: usize,
        count: usize,
    },
    /// Another length, stamp or kind.
    Header {
        frame: usize,
        place: Range<usize>,
        value: u32,
    },
    /// A payload of one byte over and over; of ones, unused bits are ones too.
    Fill {
        frame: usize,
        byte: u8,
    },
    Repeat {
        frame: usize,
    },
    Drop {
        frame: usize,
    },
    Swap {
        frame: usize,
    },
    /// A frame that is well-formed but of another kind: control words out of order.
    Word {
        frame: usize,
        kind: u8,
        stamp: u32,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let anywhere = any::<usize>();
    let value = prop_oneof![any::<u32>(), Just(0), Just(u32::MAX), Just(1 << 20), 0_u32..50];
    let place = prop_oneof![Just(0..4), Just(4..8), Just(8..9)];
    let bytes = prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        3 => (anywhere, 1_u8..).prop_map(|(at, mask)| Change::Flip { at, mask }),
        1 => (0..400_usize, 1_u8..).prop_map(|(at, mask)| Change::Flip { at, mask }),
        2 => anywhere.prop_map(|at| Change::Cut { at }),
        1 => (anywhere, bytes).prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        1 => (anywhere, 1..2000_usize).prop_map(|(at, count)| Change::Remove { at, count }),
        4 => (anywhere, place, value.clone())
            .prop_map(|(frame, place, value)| Change::Header { frame, place, value }),
        2 => (anywhere, prop_oneof![Just(0xff), Just(0), any::<u8>()])
            .prop_map(|(frame, byte)| Change::Fill { frame, byte }),
        1 => anywhere.prop_map(|frame| Change::Repeat { frame }),
        1 => anywhere.prop_map(|frame| Change::Drop { frame }),
        1 => anywhere.prop_map(|frame| Change::Swap { frame }),
        2 => (anywhere, 1_u8..13, value).prop_map(|(frame, kind, stamp)| Change::Word { frame, kind, stamp }),
    ]
}

impl Change {
    fn of(&self, said: &[u8]) -> Vec<u8> {
        let mut said = said.to_vec();
        let (len, all) = (said.len(), frames(&said));
        let frame = |frame: usize| all[frame % all.len()].clone();
        match *self {
            Self::Flip { at, mask } => said[at % len] ^= mask,
            Self::Cut { at } => said.truncate(at % len),
            Self::Insert { at, ref bytes } => {
                let at = at % len;
                said.splice(at..at, bytes.iter().copied()).for_each(drop);
            }
            Self::Remove { at, count } => {
                let at = at % len;
                said.drain(at..(at + count).min(len)).for_each(drop);
            }
            Self::Header { frame: number, ref place, value } => {
                let place = frame(number).start + place.start..frame(number).start + place.end;
                let width = place.len();
                said[place].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            Self::Fill { frame: number, byte } => {
                let frame = frame(number);
                said[frame.start + HEADER..frame.end].fill(byte);
            }
            Self::Repeat { frame: number } => {
                let again = said[frame(number)].to_vec();
                let at = frame(number).end;
                said.splice(at..at, again).for_each(drop);
            }
            Self::Drop { frame: number } => said.drain(frame(number)).for_each(drop),
            Self::Swap { frame: number } => {
                let (first, second) = (frame(number), frame(number.wrapping_add(1)));
                if first.end == second.start {
                    said[first.start..second.end].rotate_left(first.len());
                }
            }
            Self::Word { frame: number, kind, stamp } => {
                let word = [&[0; 4][..], &stamp.to_le_bytes(), &[kind]].concat();
                let at = frame(number).start;
                said.splice(at..at, word).for_each(drop);
            }
        }
        said
    }
}

/// Whether an error says that the peer or the line is at fault.
fn blames_the_peer(error: &RuntimeError) -> bool {
    matches!(
        error,
        RuntimeError::ConnectionLost { .. }
            | RuntimeError::PeerAborted { .. }
            | RuntimeError::PeerMisbehaved { .. }
            | RuntimeError::NotCoPriv { .. }
            | RuntimeError::Version { .. }
            | RuntimeError::RoleClash { .. }
            | RuntimeError::PlanMismatch { .. }
            | RuntimeError::Refused { .. }
            | RuntimeError::ForeignUpload { .. }
            | RuntimeError::ForeignReply { .. }
    )
}

/// Twice what the noise of a silent transfer's expansion takes, the largest piece of an honest session.
const MOST: usize = 32 << 20;

fn assert_survives(recording: &Recording, party: Party, change: &Change) {
    let said = change.of(recording.peer_of(party));
    if let Err(error) = recording.play(party, said) {
        assert!(blames_the_peer(&error), "{} {party} {change:?}: {error}", recording.name);
    }
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest <= MOST, "{} {party} {change:?}: {largest} bytes", recording.name);
}

#[test]
fn what_was_recorded_is_a_session_for_either_party_alone() {
    for recording in &*RECORDINGS {
        for party in [Party::Server, Party::Client] {
            let said = recording.peer_of(party).to_vec();
            recording.play(party, said).expect("an honest peer");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 175, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_what_a_peer_says_does_any_harm(
        kind in 0..7_usize, is_server: bool, change in change(),
    ) {
        let party = if is_server { Party::Server } else { Party::Client };
        assert_survives(&RECORDINGS[kind], party, &change);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn nor_with_silent_transfers(is_server: bool, change in change()) {
        let party = if is_server { Party::Server } else { Party::Client };
        assert_survives(&RECORDINGS[7], party, &change);
    }
}
