//! How long traffic takes.

use super::NetworkProfile;
use crate::{CommTable, Direction, Phase, Traffic};

impl NetworkProfile {
    /// Seconds of a phase of a plan on the link alone, computing not counted: that of its steps, one
    /// after the other. Each round costs half a round trip, what bytes cost is in [`Self::transfer_seconds`].
    ///
    /// This takes traffic alone and so must guess who waits for whom; offline it assumes that streams keep the link busy. With the plan
    /// at hand [`Self::offline_latency`] and [`Self::online_latency`] know.
    #[must_use]
    pub fn latency(&self, table: &CommTable, phase: Phase) -> f64 {
        let seconds = |traffic: Traffic| {
            f64::from(traffic.rounds) * self.delay() + self.transfer_seconds(traffic, phase)
        };
        in_phase(table, phase).map(seconds).sum()
    }

    /// Seconds that the bytes of one step take to leave.
    ///
    /// Ahead of time both parties stream: the two directions go side by side and the slower one counts, with what the
    /// other answers to its last block. In the setup both send the same, side by side. Online
    /// messages answer each other, except for the openings of a comparison's tree, which cross. How much that is
    /// is estimated from the excess of one direction, the tables of a comparison's leaves: where there is
    /// none, all crosses. (Leaves of one bit have tables as long as their corrections: for them it is too quick.)
    #[must_use]
    pub fn transfer_seconds(&self, traffic: Traffic, phase: Phase) -> f64 {
        let bytes = [traffic.client_to_server, traffic.server_to_client].map(|bytes| bytes as f64);
        let bandwidths =
            [Direction::ClientToServer, Direction::ServerToClient].map(|way| self.bandwidth(way));
        let [up, down] = [0, 1].map(|way| 8.0 * bytes[way] / bandwidths[way]);
        match phase {
            Phase::Setup => up.max(down),
            Phase::Offline => {
                let tail = 8.0 * ANSWER as f64;
                up.max(down) + up.min(down).min(tail / bandwidths[usize::from(up > down)])
            }
            Phase::Online => {
                let [less, more] = [bytes[0].min(bytes[1]), bytes[0].max(bytes[1])];
                let crossing = less * less / more.max(1.0);
                up + down - 8.0 * crossing / bandwidths[0].max(bandwidths[1])
            }
        }
    }
}

/// Bytes that answer the last block of a stream.
const ANSWER: u64 = 64 << 10;

fn in_phase(table: &CommTable, phase: Phase) -> impl Iterator<Item = Traffic> + '_ {
    table.entries().filter(move |entry| entry.1 == phase).map(|(_, _, traffic)| traffic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StepId;

    fn table(entries: &[(Phase, u64, u64, u32)]) -> CommTable {
        let mut table = CommTable::new();
        for (step, &(phase, up, down, rounds)) in entries.iter().enumerate() {
            let traffic = Traffic { client_to_server: up, server_to_client: down, rounds };
            table.book(StepId(step), phase, traffic);
        }
        table
    }

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-9
    }

    #[test]
    fn streams_go_side_by_side_and_answers_take_turns() {
        let mobile = NetworkProfile::mobile();
        let (up, down) = (1_250_000, 12_500_000);
        let offline = table(&[(Phase::Offline, up, down, 2)]);
        let answer = 8.0 * ANSWER as f64 / 10e6;
        assert!(near(mobile.latency(&offline, Phase::Offline), 2.0 + 0.06 + answer));
        assert!(near(mobile.latency(&offline, Phase::Online), 0.0));
        let one_way = table(&[(Phase::Online, up, 0, 1)]);
        assert!(near(mobile.latency(&one_way, Phase::Online), 1.0 + 0.03));
        let crossing = table(&[(Phase::Online, up, up, 1)]);
        assert!(near(mobile.latency(&crossing, Phase::Online), 1.0 + 0.03));
        let both = table(&[(Phase::Online, up, down, 2)]);
        let seconds = mobile.latency(&both, Phase::Online);
        assert!((2.8 + 0.06..3.0 + 0.06).contains(&seconds), "{seconds}");
    }
}
