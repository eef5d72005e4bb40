//! The messages of online protocols, round by round, and how long a chain they make.

use crate::{Direction, Traffic};
use std::iter::Sum;
use std::ops::Add;

/// What an online protocol sends, flight by flight: messages that cross are one flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flights(Vec<Flight>);

/// Bytes that leave at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flight {
    server_to_client: u64,
    client_to_server: u64,
}

impl Flights {
    /// One message; none if it is empty.
    #[must_use]
    pub fn one_way(direction: Direction, bytes: u64) -> Self {
        Self::both(match direction {
            Direction::ServerToClient => Flight { server_to_client: bytes, client_to_server: 0 },
            Direction::ClientToServer => Flight { server_to_client: 0, client_to_server: bytes },
        })
    }

    /// A message of so many bytes from each party, crossing; none if they are empty.
    #[must_use]
    pub fn crossing(bytes: u64) -> Self {
        Self::both(Flight { server_to_client: bytes, client_to_server: bytes })
    }

    fn both(flight: Flight) -> Self {
        Self(if flight == Flight::default() { vec![] } else { vec![flight] })
    }

    /// Two protocols side by side, flight by flight.
    #[must_use]
    pub fn beside(mut self, mut other: Self) -> Self {
        if self.0.len() < other.0.len() {
            std::mem::swap(&mut self, &mut other);
        }
        for (flight, other) in self.0.iter_mut().zip(other.0) {
            flight.server_to_client += other.server_to_client;
            flight.client_to_server += other.client_to_server;
        }
        self
    }

    /// The bytes of each flight, from client to server and back.
    pub fn blocks(&self) -> impl Iterator<Item = [u64; 2]> {
        self.0.iter().map(|flight| [flight.client_to_server, flight.server_to_client])
    }

    /// Bytes of both directions together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks().flatten().sum()
    }

    /// The traffic of this protocol by itself.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Clocks::default().pass(self)
    }
}

/// One after the other.
impl Add for Flights {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

impl Sum for Flights {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// Both parties' logical clocks in the online phase, as `Channel` keeps them: a message is stamped one later than the latest
/// that its sender has received, so that two messages that follow each other in one direction are one round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    /// The latest stamp that each party has received.
    server: u32,
    client: u32,
    /// The latest of all.
    rounds: u32,
}

impl Clocks {
    /// Lets a protocol pass: its bytes, and by how many rounds the longest chain of messages has grown.
    pub fn pass(&mut self, flights: &Flights) -> Traffic {
        let before = self.rounds;
        let mut traffic = Traffic::default();
        for flight in &flights.0 {
            let (from_server, from_client) = (self.server + 1, self.client + 1);
            if flight.server_to_client > 0 {
                self.client = self.client.max(from_server);
            }
            if flight.client_to_server > 0 {
                self.server = self.server.max(from_client);
            }
            self.rounds = self.rounds.max(self.client).max(self.server);
            traffic.server_to_client += flight.server_to_client;
            traffic.client_to_server += flight.client_to_server;
        }
        Traffic { rounds: self.rounds - before, ..traffic }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_follow_each_other_in_one_direction_share_a_round() {
        let up = || Flights::one_way(Direction::ClientToServer, 5);
        let down = || Flights::one_way(Direction::ServerToClient, 7);
        let rounds = |all: &[Flights]| {
            let mut clocks = Clocks::default();
            all.iter().map(|flights| clocks.pass(flights).rounds).collect::<Vec<_>>()
        };
        assert_eq!(rounds(&[up(), up(), down(), down(), up()]), [1, 0, 1, 0, 1]);
        let opening = || Flights::crossing(3);
        assert_eq!(rounds(&[opening(), opening(), up(), up(), opening()]), [1, 1, 1, 0, 1]);
        assert_eq!(rounds(&[up(), opening(), opening(), down()]), [1, 1, 1, 1]);
        assert_eq!((up() + down() + opening()).traffic().rounds, 3);
        assert_eq!((up() + down()).beside(opening()).traffic().rounds, 2);
        assert_eq!((up() + down()).beside(opening()).bytes(), 18);
        assert_eq!(Flights::crossing(0).traffic(), Traffic::default());
    }
}
