//! Communication: who sends how much, in which phase of which step.

use crate::StepId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, AddAssign};

/// One of the two parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// Owns the model.
    Server,
    /// Owns the image; alone learns the logits.
    Client,
}

impl Party {
    /// The other one.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Server => Self::Client,
            Self::Client => Self::Server,
        }
    }

    /// The direction of what this party sends.
    #[must_use]
    pub const fn sends(self) -> Direction {
        match self {
            Self::Server => Direction::ServerToClient,
            Self::Client => Direction::ClientToServer,
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

/// Direction of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the server to the client.
    ServerToClient,
    /// From the client to the server.
    ClientToServer,
}

/// When a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Once a session: handshake, base OTs.
    Setup,
    /// Once an inference, before the image is known.
    Offline,
    /// Once an inference, with the image.
    Online,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 3] = [Self::Setup, Self::Offline, Self::Online];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setup => "setup",
            Self::Offline => "offline",
            Self::Online => "online",
        })
    }
}

/// Payload bytes in each direction, and rounds.
///
/// Bytes are those handed to the channel, without framing. Rounds are the length of the longest
/// chain of messages each of which waits for the one before: two messages that cross are one
/// round, and a stream of blocks with replies is two, however long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Bytes from server to client.
    pub server_to_client: u64,
    /// Bytes from client to server.
    pub client_to_server: u64,
    /// Longest chain of dependent messages.
    pub rounds: u32,
}

impl Traffic {
    /// `bytes` in one direction and this many rounds.
    #[must_use]
    pub const fn one_way(direction: Direction, bytes: u64, rounds: u32) -> Self {
        match direction {
            Direction::ServerToClient => {
                Self { server_to_client: bytes, client_to_server: 0, rounds }
            }
            Direction::ClientToServer => {
                Self { server_to_client: 0, client_to_server: bytes, rounds }
            }
        }
    }

    /// Bytes of both directions together.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.server_to_client + self.client_to_server
    }

    /// Two exchanges side by side: bytes add up, the longer one's rounds count.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self { rounds: self.rounds.max(other.rounds), ..self + other }
    }
}

/// One after the other: bytes and rounds add up.
impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            server_to_client: self.server_to_client + other.server_to_client,
            client_to_server: self.client_to_server + other.client_to_server,
            rounds: self.rounds + other.rounds,
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(traffic: I) -> Self {
        traffic.fold(Self::default(), Add::add)
    }
}

/// Traffic by step and phase: predicted by the compiler, measured by the runtime, and equal.
///
/// The session's setup (handshake and base OTs) is booked on step 0, the plan's input.
/// Entries without bytes and rounds are not stored, so equal traffic means equal tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommTable {
    entries: BTreeMap<(StepId, Phase), Traffic>,
}

impl CommTable {
    /// No traffic at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds to one entry.
    pub fn book(&mut self, step: StepId, phase: Phase, traffic: Traffic) {
        if traffic != Traffic::default() {
            *self.entries.entry((step, phase)).or_default() += traffic;
        }
    }

    /// One entry.
    #[must_use]
    pub fn traffic(&self, step: StepId, phase: Phase) -> Traffic {
        self.entries.get(&(step, phase)).copied().unwrap_or_default()
    }

    /// All steps of one phase, one after the other.
    #[must_use]
    pub fn total(&self, phase: Phase) -> Traffic {
        self.entries.iter().filter(|((_, p), _)| *p == phase).map(|(_, &traffic)| traffic).sum()
    }

    /// All entries with traffic, by step, then phase.
    pub fn entries(&self) -> impl Iterator<Item = (StepId, Phase, Traffic)> + '_ {
        self.entries.iter().map(|(&(step, phase), &traffic)| (step, phase, traffic))
    }

    /// The first entry in which two tables differ: step, phase, this one's traffic, the other's.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<(StepId, Phase, Traffic, Traffic)> {
        let keys = self.entries.keys().chain(other.entries.keys());
        let differs = |&&(step, phase): &&(StepId, Phase)| {
            self.traffic(step, phase) != other.traffic(step, phase)
        };
        let &(step, phase) = keys.filter(differs).min()?;
        Some((step, phase, self.traffic(step, phase), other.traffic(step, phase)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_over_steps() {
        let mut table = CommTable::new();
        let a = Traffic { server_to_client: 1, client_to_server: 2, rounds: 3 };
        table.book(StepId(0), Phase::Online, a);
        table.book(StepId(1), Phase::Online, a);
        table.book(StepId(1), Phase::Offline, a);
        assert_eq!(table.total(Phase::Online), a + a);
        assert_eq!(table.total(Phase::Setup), Traffic::default());
    }

    #[test]
    fn differences_are_found_on_either_side() {
        let mut table = CommTable::new();
        table.book(StepId(1), Phase::Online, Traffic::default());
        assert_eq!(table, CommTable::new(), "empty traffic is no entry");
        let one = Traffic { rounds: 1, ..Traffic::default() };
        table.book(StepId(1), Phase::Online, one);
        let expected = Some((StepId(1), Phase::Online, Traffic::default(), one));
        assert_eq!(CommTable::new().first_difference(&table), expected);
    }

    #[test]
    fn crossing_messages_share_a_round() {
        let up = Traffic::one_way(Direction::ClientToServer, 5, 1);
        let down = Traffic::one_way(Direction::ServerToClient, 7, 1);
        assert_eq!(up.beside(down).rounds, 1);
        assert_eq!((up + down).rounds, 2);
        assert_eq!(up.beside(down).bytes(), 12);
    }
}
