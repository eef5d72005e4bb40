//! What an offline protocol takes: its own messages, and what it draws from the session.

use crate::{OtKind, Party, Traffic};
use std::iter::Sum;
use std::ops::Add;

/// What a protocol takes offline. Adds up like [`Traffic`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offline {
    /// Its own messages.
    pub traffic: Traffic,
    /// The extensions that it draws on.
    pub ots: OtUse,
}

impl Offline {
    /// Two protocols side by side: bytes and transfers add up, the longer one's rounds count.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self { traffic: self.traffic.beside(other.traffic), ots: self.ots + other.ots }
    }
}

/// A protocol that draws on no extension.
impl From<Traffic> for Offline {
    fn from(traffic: Traffic) -> Self {
        Self { traffic, ots: OtUse::default() }
    }
}

/// One after the other.
impl Add for Offline {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { traffic: self.traffic + other.traffic, ots: self.ots + other.ots }
    }
}

impl Sum for Offline {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// What is drawn from a session's extensions, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtUse {
    /// 1-of-2 transfers of both directions by kind, in the order of [`OtKind::ALL`].
    transfers: [u64; OtKind::ALL.len()],
    /// Silent 1-of-2 transfers in which the server, the client is the OT sender.
    silent: [u64; 2],
    /// The same for SoftSpoken: bit `k` is set where the field of `2^k` elements is in use.
    fields: [u16; 2],
}

impl OtUse {
    /// `transfers` 1-of-2 transfers of `kind` from `sender`.
    #[must_use]
    pub const fn new(kind: OtKind, sender: Party, transfers: u64) -> Self {
        let mut all = Self { transfers: [0; OtKind::ALL.len()], silent: [0; 2], fields: [0; 2] };
        all.transfers[kind as usize] = transfers;
        let field = match kind {
            _ if transfers == 0 => 0,
            OtKind::Iknp => 0,
            OtKind::SoftSpoken2 => 1 << 2,
            OtKind::SoftSpoken4 => 1 << 4,
            OtKind::SoftSpoken8 => 1 << 8,
            OtKind::Silent => {
                all.silent[side(sender)] = transfers;
                0
            }
        };
        all.fields[side(sender)] = field;
        all
    }

    /// 1-of-2 transfers of a kind in both directions; one of 1-of-`2^m` counts as `m`.
    #[must_use]
    pub const fn transfers(&self, kind: OtKind) -> u64 {
        self.transfers[kind as usize]
    }

    /// Silent 1-of-2 transfers from `sender`.
    #[must_use]
    pub const fn silent(&self, sender: Party) -> u64 {
        self.silent[side(sender)]
    }

    /// Whether SoftSpoken over the field of `2^field_bits` elements is in use from `sender`.
    #[must_use]
    pub const fn soft_spoken(&self, sender: Party, field_bits: u32) -> bool {
        self.fields[side(sender)] >> field_bits & 1 == 1
    }
}

impl Add for OtUse {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let transfers = std::array::from_fn(|kind| self.transfers[kind] + other.transfers[kind]);
        let [a, b] = self.silent;
        let [c, d] = other.silent;
        let [e, f] = self.fields;
        let [g, h] = other.fields;
        Self { transfers, silent: [a + c, b + d], fields: [e | g, f | h] }
    }
}

impl Sum for OtUse {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

const fn side(party: Party) -> usize {
    match party {
        Party::Server => 0,
        Party::Client => 1,
    }
}
