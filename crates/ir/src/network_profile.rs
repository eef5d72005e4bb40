//! The network between two parties, and how long a plan's traffic takes on it.

mod clocks;
mod compute;
mod file;
mod forecast;
mod latency;

pub use compute::ComputeRates;
pub use file::ProfileError;
pub use forecast::Forecast;

use crate::Direction;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// A full-duplex link with a bandwidth each way and a delay, and how fast the parties compute.
///
/// | name | client to server | server to client | round trip | what it stands for |
/// |---|---|---|---|---|
/// | `lan` | 3 Gbit/s | 3 Gbit/s | 0.3 ms | two machines of a data centre: CrypTFlow2 (377 MB/s, 0.3 ms), Cheetah (384 MB/s, 0.3 ms) |
/// | `wan` | 200 Mbit/s | 200 Mbit/s | 40 ms | across a continent: the round trip of Cheetah's WAN, at an office's bandwidth |
/// | `mobile` | 10 Mbit/s | 50 Mbit/s | 60 ms | a client on 4G, of the order of public speed tests' medians |
///
/// A file is TOML; `compute` may be left out, and so may each of its keys ([`ComputeRates`] has what counts then):
///
/// ```toml
/// client_to_server = 10e6    # bits a second
/// server_to_client = 50e6    # bits a second
/// round_trip = 0.060         # seconds
///
/// [compute]                  # a CPU second of both parties together, as `copriv bench profile` measures it (not hint, products)
/// vectors = 5e6              # vectors that linear steps send, one a transfer
/// payload = 3e8              # bytes of those vectors
/// hint = 1.2e8               # bytes of a hint that are worked through
/// products = 1.2e4           # products of polynomials where lattice correlations have a reply
/// multiplications = 2e9      # multiplications in the ring
/// messages = 8e7             # bytes of online messages
/// [compute.transfers]        # 1-of-2 transfers, by kind
/// iknp = 13e6
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkProfile {
    name: String,
    /// Bits a second.
    client_to_server: f64,
    server_to_client: f64,
    /// Seconds.
    round_trip: f64,
    compute: ComputeRates,
}

impl NetworkProfile {
    /// The names that need no file.
    pub const NAMES: [&str; 3] = ["lan", "wan", "mobile"];

    /// Two machines of a data centre: 3 Gbit/s, 0.3 ms.
    #[must_use]
    pub fn lan() -> Self {
        Self::link("lan", [3e9, 3e9], 0.3e-3)
    }

    /// Across a continent: 200 Mbit/s, 40 ms.
    #[must_use]
    pub fn wan() -> Self {
        Self::link("wan", [200e6, 200e6], 40e-3)
    }

    /// A client on a mobile network: 10 Mbit/s up, 50 Mbit/s down, 60 ms.
    #[must_use]
    pub fn mobile() -> Self {
        Self::link("mobile", [10e6, 50e6], 60e-3)
    }

    /// One of [`Self::NAMES`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::lan(), Self::wan(), Self::mobile()].into_iter().find(|profile| profile.name == name)
    }

    /// One of [`Self::NAMES`], or else the TOML file at that path.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn open(name_or_path: &str) -> Result<Self, ProfileError> {
        Self::named(name_or_path).map_or_else(|| Self::read(Path::new(name_or_path)), Ok)
    }

    /// What it is called: its name, or its file's without folder and extension.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bits a second in one direction.
    #[must_use]
    pub const fn bandwidth(&self, direction: Direction) -> f64 {
        match direction {
            Direction::ClientToServer => self.client_to_server,
            Direction::ServerToClient => self.server_to_client,
        }
    }

    /// Seconds from a message's last bit leaving to its arrival: half the round trip.
    #[must_use]
    pub const fn delay(&self) -> f64 {
        self.round_trip / 2.0
    }

    /// How fast the parties compute.
    #[must_use]
    pub const fn compute(&self) -> &ComputeRates {
        &self.compute
    }

    /// The same link between parties that compute so fast.
    #[must_use]
    pub fn with_compute(self, compute: ComputeRates) -> Self {
        Self { compute, ..self }
    }

    fn link(name: &str, [client_to_server, server_to_client]: [f64; 2], round_trip: f64) -> Self {
        let compute = ComputeRates::default();
        Self { name: name.to_owned(), client_to_server, server_to_client, round_trip, compute }
    }
}

impl fmt::Display for NetworkProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [up, down] = [self.client_to_server, self.server_to_client].map(|bits| bits / 1e6);
        let milliseconds = self.round_trip * 1e3;
        write!(f, "{}: {up} Mbit/s up, {down} Mbit/s down, {milliseconds} ms round trip", self.name)
    }
}
