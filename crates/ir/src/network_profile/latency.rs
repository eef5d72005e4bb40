//! How long traffic takes.

use super::NetworkProfile;
use crate::{CommTable, Direction, Phase, StepId, Traffic};

impl NetworkProfile {
    /// Seconds of a phase of a plan on the link alone, computing not counted: that of its steps, one
    /// after the other.
    ///
    /// Each round costs half a round trip. A step that sends from the client to the server and waits for nothing
    /// does not hold up the client's first message of the next step, so that the two share a round. What
    /// bytes cost is in [`Self::transfer_seconds`].
    #[must_use]
    pub fn latency(&self, table: &CommTable, phase: Phase) -> f64 {
        let mut seconds = 0.0;
        let mut ahead = false;
        for (_, traffic) in in_phase(table, phase) {
            let answered = traffic.rounds > 1 && traffic.client_to_server > 0;
            let shared = u32::from(ahead && answered);
            seconds += f64::from(traffic.rounds - shared) * self.delay();
            seconds += self.transfer_seconds(traffic, phase);
            ahead = traffic.rounds == 1 && traffic.server_to_client == 0;
        }
        seconds
    }

    /// Seconds that the bytes of one step take to leave.
    ///
    /// Ahead of time both parties stream: the two directions go side by side and the slower one counts. Online
    /// a message answers the one before, and the directions take turns.
    #[must_use]
    pub fn transfer_seconds(&self, traffic: Traffic, phase: Phase) -> f64 {
        let seconds = |bytes: u64, direction| 8.0 * bytes as f64 / self.bandwidth(direction);
        let up = seconds(traffic.client_to_server, Direction::ClientToServer);
        let down = seconds(traffic.server_to_client, Direction::ServerToClient);
        match phase {
            Phase::Setup | Phase::Offline => up.max(down),
            Phase::Online => up + down,
        }
    }
}

fn in_phase(table: &CommTable, phase: Phase) -> impl Iterator<Item = (StepId, Traffic)> + '_ {
    table.entries().filter(move |entry| entry.1 == phase).map(|(step, _, traffic)| (step, traffic))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(near(mobile.latency(&offline, Phase::Offline), 2.0 + 0.06));
        assert!(near(mobile.latency(&offline, Phase::Online), 0.0));
        let online = table(&[(Phase::Online, up, down, 2)]);
        assert!(near(mobile.latency(&online, Phase::Online), 1.0 + 2.0 + 0.06));
    }

    #[test]
    fn a_step_without_answers_shares_its_round_with_the_next() {
        let wan = NetworkProfile::wan();
        let masked = (Phase::Online, 1, 0, 1);
        let compared = (Phase::Online, 1, 1, 8);
        let revealed = (Phase::Online, 0, 1, 1);
        let rounds =
            |entries: &[_]| (wan.latency(&table(entries), Phase::Online) / wan.delay()).round();
        assert!(near(rounds(&[masked, compared, compared]), 16.0));
        assert!(near(rounds(&[masked, revealed]), 2.0));
    }
}
