//! Counting bytes and rounds of the current step and phase.

use copriv_ir::{CommTable, Direction, Party, Phase, StepId, Traffic};

/// Books what passes, under one (step, phase) at a time.
///
/// Rounds are counted by a logical clock: a send is stamped with the clock plus one, a receive raises the
/// clock to the stamp. The highest stamp seen is the length of the longest chain of messages, and both
/// parties see the same stamps. From one online step to the next the clock goes on, and a step's rounds are what it adds:
/// messages that follow each other in one direction share one.
#[derive(Debug)]
pub(super) struct Meter {
    party: Party,
    booked: CommTable,
    /// Bytes of both directions before the current step and phase.
    earlier: u64,
    step: StepId,
    phase: Phase,
    sent: u64,
    received: u64,
    clock: u32,
    /// The highest stamp sent or received.
    rounds: u32,
    /// What it was when the current step began.
    rounds_before: u32,
    lane: Option<LaneClock>,
}

/// Time as it stands in a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneClock {
    /// The clock when it was opened: all sends are stamped one later.
    opened: u32,
}

impl Meter {
    pub(super) fn new(party: Party) -> Self {
        Self {
            party,
            booked: CommTable::new(),
            earlier: 0,
            step: StepId(0),
            phase: Phase::Setup,
            sent: 0,
            received: 0,
            clock: 0,
            rounds: 0,
            rounds_before: 0,
            lane: None,
        }
    }

    /// Books what was counted and begins to count for another step and phase.
    pub(super) fn enter(&mut self, step: StepId, phase: Phase) {
        // An earlier step belongs to another inference.
        let goes_on = (self.phase, phase) == (Phase::Online, Phase::Online) && self.step < step;
        let (clock, rounds) = if goes_on { (self.clock, self.rounds) } else { (0, 0) };
        let booked = self.take();
        let earlier = self.earlier;
        let fresh = Self::new(self.party);
        *self =
            Self { booked, earlier, step, phase, clock, rounds, rounds_before: rounds, ..fresh };
    }

    /// Everything since the last time, forgotten here; the clock restarts.
    pub(super) fn take(&mut self) -> CommTable {
        let mut table = std::mem::take(&mut self.booked);
        table.book(self.step, self.phase, self.current());
        let (step, phase, earlier) = (self.step, self.phase, self.bytes());
        *self = Self { earlier, step, phase, ..Self::new(self.party) };
        table
    }

    /// Bytes of both directions, ever.
    pub(super) fn bytes(&self) -> u64 {
        self.earlier + self.sent + self.received
    }

    /// Everything since the last [`Self::take`].
    pub(super) fn table(&self) -> CommTable {
        let mut table = self.booked.clone();
        table.book(self.step, self.phase, self.current());
        table
    }

    fn current(&self) -> Traffic {
        let rounds = self.rounds - self.rounds_before;
        let mut traffic = Traffic { rounds, ..Traffic::default() };
        for (direction, bytes) in
            [(self.party.sends(), self.sent), (self.party.peer().sends(), self.received)]
        {
            match direction {
                Direction::ServerToClient => traffic.server_to_client += bytes,
                Direction::ClientToServer => traffic.client_to_server += bytes,
            }
        }
        traffic
    }

    /// Counts bytes about to be sent; their stamp.
    pub(super) fn send(&mut self, bytes: usize) -> u32 {
        let stamp = self.lane.map_or(self.clock, |lane| lane.opened) + 1;
        self.sent += bytes as u64;
        self.rounds = self.rounds.max(stamp);
        stamp
    }

    /// Counts bytes received.
    pub(super) fn receive(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Whether an honest peer could have stamped a message so: it is at most one later than
    /// everything that it can have received.
    pub(super) fn is_possible(&self, stamp: u32) -> bool {
        (1..=self.rounds + 1).contains(&stamp)
    }

    /// Takes note of the stamp of a frame received.
    pub(super) fn see(&mut self, stamp: u32) {
        self.rounds = self.rounds.max(stamp);
        self.clock = self.clock.max(stamp);
    }

    /// The clock goes on to the latest stamp: what follows waits for all that was.
    pub(super) fn barrier(&mut self) {
        self.clock = self.rounds;
    }

    /// Sends stamped with the clock, even in a lane, until [`Self::close_lane`].
    pub(super) fn suspend_lane(&mut self) -> Option<LaneClock> {
        self.lane.take()
    }

    /// Opens a lane; what [`Self::close_lane`] needs back. A lane within a lane goes by the outer's clock.
    pub(super) fn open_lane(&mut self) -> Option<LaneClock> {
        self.lane.replace(self.lane.unwrap_or(LaneClock { opened: self.clock }))
    }

    pub(super) fn close_lane(&mut self, outer: Option<LaneClock>) {
        self.lane = outer;
    }
}
