//! How long a phase takes on a link: both parties' clocks, message by message.

use super::NetworkProfile;
use crate::cost::streams::{self, Order, Stream};
use crate::cost::{SessionCost, Work};
use crate::{Direction, Party, Phase, Plan, StepId};
use std::collections::BTreeMap;
use std::mem::replace;

/// Bytes of the word with which the client asks for a phase.
const REQUEST: u64 = 9;

impl NetworkProfile {
    /// Seconds of the setup of a session that runs `plan`, on the link alone; the download of a hint is not part of it.
    #[must_use]
    pub fn setup_latency(&self, plan: &Plan) -> f64 {
        let setup = SessionCost::new(plan).setup().total(Phase::Setup);
        self.seconds(setup, &Work::default(), Phase::Setup)
    }

    /// Seconds of the offline phase of a session's first inference on the link alone, computing not counted, each party on
    /// one thread.
    ///
    /// It follows both parties' clocks through every block that they send or wait for ([`streams::offline`]): a block
    /// leaves when its sender is there and the link is free, and arrives a delay later.
    #[must_use]
    pub fn offline_latency(&self, plan: &Plan) -> f64 {
        self.follow(streams::offline(plan)).values().sum()
    }

    /// The same of the online phase ([`streams::online`]).
    #[must_use]
    pub fn online_latency(&self, plan: &Plan) -> f64 {
        self.follow(streams::online(plan)).values().sum()
    }

    /// Seconds from one step's last arrival to the next one's, from the client's request on.
    pub(super) fn follow(&self, steps: Vec<(StepId, Vec<Stream>)>) -> BTreeMap<StepId, f64> {
        let mut link = Link::new(self);
        let mut before = 0.0;
        let asked = link.send(Party::Client, REQUEST);
        link.wait(Party::Server, asked);
        let step = |(id, streams): (StepId, Vec<Stream>)| {
            streams.iter().for_each(|stream| link.pass(stream));
            (id, link.end - replace(&mut before, link.end))
        };
        steps.into_iter().map(step).collect()
    }
}

/// Both parties' clocks and both directions of the link between them; client first.
struct Link {
    /// Seconds a byte.
    pace: [f64; 2],
    delay: f64,
    now: [f64; 2],
    /// When a direction has sent out everything so far.
    free: [f64; 2],
    /// When all that was sent has arrived.
    end: f64,
}

impl Link {
    fn new(profile: &NetworkProfile) -> Self {
        let ways = [Direction::ClientToServer, Direction::ServerToClient];
        let pace = ways.map(|way| 8.0 / profile.bandwidth(way));
        Self { pace, delay: profile.delay(), now: [0.0; 2], free: [0.0; 2], end: 0.0 }
    }

    /// Sends so many bytes now; when they are there, if there are any.
    fn send(&mut self, from: Party, bytes: u64) -> Option<f64> {
        let side = side(from);
        if bytes == 0 {
            return None;
        }
        self.free[side] = self.free[side].max(self.now[side]) + bytes as f64 * self.pace[side];
        let arrives = self.free[side] + self.delay;
        self.end = self.end.max(arrives);
        Some(arrives)
    }

    /// Lets a party wait for something, if it is to come.
    fn wait(&mut self, party: Party, until: Option<f64>) {
        let now = &mut self.now[side(party)];
        *now = until.map_or(*now, |until| now.max(until));
    }

    fn pass(&mut self, stream: &Stream) {
        match stream.order {
            Order::Crossing => self.cross(stream),
            Order::Asks { party, lag } => self.ask(stream, party, lag),
        }
    }

    fn cross(&mut self, Stream { window, blocks, .. }: &Stream) {
        let mut arrivals: [Vec<Option<f64>>; 2] = Default::default();
        for (number, block) in blocks.iter().enumerate() {
            for party in PARTIES {
                let theirs = &arrivals[side(party.peer())];
                let due = number.checked_sub(*window).and_then(|due| theirs[due]);
                self.wait(party, due);
            }
            for party in PARTIES {
                let arrives = self.send(party, block[side(party)]);
                arrivals[side(party)].push(arrives);
            }
        }
        for party in PARTIES {
            let last = arrivals[side(party.peer())].iter().rev().find_map(|arrival| *arrival);
            self.wait(party, last);
        }
    }

    fn ask(&mut self, Stream { window, blocks, .. }: &Stream, asker: Party, lag: usize) {
        let (asked, answered) = (side(asker), side(asker.peer()));
        let mut answers: Vec<Option<f64>> = Vec::with_capacity(blocks.len());
        for (number, block) in blocks.iter().enumerate() {
            let due =
                number.checked_sub(*window).and_then(|due| answers.get(due).copied()).flatten();
            self.wait(asker, due);
            let arrives = self.send(asker, block[asked]);
            self.wait(asker.peer(), arrives);
            if let Some(late) = number.checked_sub(lag) {
                answers.push(self.send(asker.peer(), blocks[late][answered]));
            }
        }
        for block in &blocks[answers.len()..] {
            answers.push(self.send(asker.peer(), block[answered]));
        }
        self.wait(asker, answers.iter().rev().find_map(|answer| *answer));
    }
}

const PARTIES: [Party; 2] = [Party::Client, Party::Server];

const fn side(party: Party) -> usize {
    match party {
        Party::Client => 0,
        Party::Server => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(stream: &Stream) -> f64 {
        let mut link = Link::new(&NetworkProfile::mobile());
        link.pass(stream);
        link.end
    }

    /// 12,500 bytes leave in 10 ms up and in 2 ms down; each way takes 30 ms.
    const BLOCK: u64 = 12_500;

    #[test]
    fn a_window_lets_requests_overlap_and_a_narrow_one_waits() {
        let stream = |window, lag, count| Stream {
            order: Order::Asks { party: Party::Client, lag },
            window,
            blocks: vec![[BLOCK, BLOCK]; count],
        };
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        near(seconds(&stream(8, 0, 8)), 0.080 + 0.030 + 0.002 + 0.030);
        near(seconds(&stream(1, 0, 8)), 8.0 * (0.010 + 0.030 + 0.002 + 0.030));
        near(seconds(&stream(8, 1, 8)), 0.080 + 0.030 + 0.004 + 0.030);
    }

    #[test]
    fn crossing_blocks_wait_for_each_other_in_step() {
        let stream =
            |window| Stream { order: Order::Crossing, window, blocks: vec![[BLOCK, BLOCK]; 4] };
        let wide = seconds(&stream(4));
        assert!((wide - (0.040 + 0.030)).abs() < 1e-9, "{wide}");
        let narrow = seconds(&stream(1));
        assert!(narrow > 2.0 * wide, "{narrow}");
    }

    #[test]
    fn nobody_waits_for_what_is_empty() {
        let order = Order::Asks { party: Party::Client, lag: 0 };
        let stream = Stream { order, window: 1, blocks: vec![[BLOCK, 0]; 5] };
        assert!((seconds(&stream) - (0.050 + 0.030)).abs() < 1e-9);
    }
}
