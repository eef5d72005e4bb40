//! How long a step's traffic takes, of which only the bytes and rounds are known.

use super::NetworkProfile;
use crate::cost::Work;
use crate::{Direction, Phase, Traffic};

impl NetworkProfile {
    /// Seconds of so much traffic and work in one phase of a step, by itself: what prices a choice before there is a plan. With
    /// the plan at hand [`Self::forecast`] knows who waits for whom.
    ///
    /// Each round costs half a round trip, what bytes cost is in [`Self::transfer_seconds`].
    #[must_use]
    pub fn seconds(&self, traffic: Traffic, work: &Work, phase: Phase) -> f64 {
        let rounds = f64::from(traffic.rounds) * self.delay();
        let transfer = self.transfer_seconds(traffic, phase);
        let computing = self.compute.seconds(work, phase);
        rounds
            + match phase {
                Phase::Setup | Phase::Online => transfer + computing,
                Phase::Offline => transfer.max(computing),
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-9
    }

    #[test]
    fn streams_go_side_by_side_and_answers_take_turns() {
        let mobile = NetworkProfile::mobile();
        let seconds = |phase, client_to_server, server_to_client, rounds| {
            let traffic = Traffic { client_to_server, server_to_client, rounds };
            mobile.seconds(traffic, &Work::default(), phase)
        };
        let (up, down) = (1_250_000, 12_500_000);
        let answer = 8.0 * ANSWER as f64 / 10e6;
        assert!(near(seconds(Phase::Offline, up, down, 2), 2.0 + 0.06 + answer));
        assert!(near(seconds(Phase::Online, up, 0, 1), 1.0 + 0.03));
        assert!(near(seconds(Phase::Online, up, up, 1), 1.0 + 0.03));
        let both = seconds(Phase::Online, up, down, 2);
        assert!((2.8 + 0.06..3.0 + 0.06).contains(&both), "{both}");
    }
}
