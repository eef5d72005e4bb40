//! The unit on the wire: a header of nine bytes, then the payload.

use super::RuntimeError;
use crate::store::{RecordId, StoreId};
use copriv_ir::{Digest, Party};
use std::fmt;

/// Largest payload of a frame. A header that claims more is refused before anything is allocated.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;

/// Bytes before the payload: length (4), stamp (4), kind (1), little endian.
pub(super) const HEADER: usize = 9;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Control(Tag),
}

/// A word between the parties, outside all accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Let us run the base transfers.
    Setup,
    /// Let us make the correlations of another inference; they are numbered 0, 1, ...
    Prepare,
    /// Let us run an inference with the correlations of this number.
    Infer(u32),
    /// This is the store that I keep prepared inferences in.
    Store(StoreId),
    /// Let us make the correlations of another inference for our stores. The client proposes a number, the
    /// server's answer has the number that it gets; each draws a nonce.
    Keep {
        /// Its number among all of these two stores.
        number: u64,
        /// Drawn for it alone.
        nonce: [u8; 16],
    },
    /// My half is on disk.
    Kept,
    /// Let us run the inference of this record.
    Claim {
        /// Its name.
        id: RecordId,
        /// What both halves have in common.
        binding: Digest,
    },
    /// My half is claimed too: go on.
    Granted,
    /// That cannot be.
    Refused(Refusal),
    /// Nothing more will come; all went well.
    Goodbye,
    /// Nothing more will come; something failed.
    Abort,
}

/// Why a server refuses what a client asks of its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It keeps none.
    NoStore,
    /// It has no such record, or has no longer.
    Unknown,
    /// It has used its half before.
    Used,
    /// Its record of that name is of another inference or another plan.
    Mismatch,
    /// Its half is damaged.
    Damaged,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoStore => "it keeps no store",
            Self::Unknown => "it does not have that record",
            Self::Used => "it has used that record before",
            Self::Mismatch => "its record of that name is another",
            Self::Damaged => "its record is damaged",
        })
    }
}

/// The kind of a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Prepare = 1,
    Infer = 2,
    Goodbye = 3,
    Abort = 4,
    Setup = 5,
    Store = 6,
    Keep = 7,
    Kept = 8,
    Claim = 9,
    Granted = 10,
    Refused = 11,
}

impl Tag {
    const ALL: [Self; 11] = [
        Self::Prepare,
        Self::Infer,
        Self::Goodbye,
        Self::Abort,
        Self::Setup,
        Self::Store,
        Self::Keep,
        Self::Kept,
        Self::Claim,
        Self::Granted,
        Self::Refused,
    ];

    /// Bytes of its frame's payload.
    const fn payload(self) -> usize {
        match self {
            Self::Store => 16,
            Self::Keep => 24,
            Self::Claim => 48,
            _ => 0,
        }
    }
}

impl Control {
    /// Its frame.
    pub(super) fn encode(self) -> Vec<u8> {
        let (tag, stamp, payload) = match self {
            Self::Setup => (Tag::Setup, 0, Vec::new()),
            Self::Prepare => (Tag::Prepare, 0, Vec::new()),
            Self::Infer(number) => (Tag::Infer, number, Vec::new()),
            Self::Store(id) => (Tag::Store, 0, id.bytes().to_vec()),
            Self::Keep { number, nonce } => {
                (Tag::Keep, 0, [&number.to_le_bytes()[..], &nonce].concat())
            }
            Self::Kept => (Tag::Kept, 0, Vec::new()),
            Self::Claim { id, binding } => {
                (Tag::Claim, 0, [&id.bytes()[..], binding.bytes()].concat())
            }
            Self::Granted => (Tag::Granted, 0, Vec::new()),
            Self::Refused(reason) => (Tag::Refused, reason as u32, Vec::new()),
            Self::Goodbye => (Tag::Goodbye, 0, Vec::new()),
            Self::Abort => (Tag::Abort, 0, Vec::new()),
        };
        let header = Header { payload: payload.len(), stamp, kind: Kind::Control(tag) };
        [&header.encode()[..], &payload].concat()
    }

    /// The word of a control frame with this header and payload, which is as long as the header says.
    pub(super) fn decode(
        (tag, stamp): (Tag, u32),
        mut payload: &[u8],
        peer: Party,
    ) -> Result<Self, RuntimeError> {
        let wrong = |found: String| RuntimeError::PeerMisbehaved {
            peer,
            what: "control frame",
            expected: "one of the known words".into(),
            found,
        };
        let short = || wrong(format!("{} bytes", tag.payload()));
        let rest = &mut payload;
        Ok(match tag {
            Tag::Setup => Self::Setup,
            Tag::Prepare => Self::Prepare,
            Tag::Infer => Self::Infer(stamp),
            Tag::Store => Self::Store(StoreId::from_bytes(take(rest).ok_or_else(short)?)),
            Tag::Keep => Self::Keep {
                number: u64::from_le_bytes(take(rest).ok_or_else(short)?),
                nonce: take(rest).ok_or_else(short)?,
            },
            Tag::Kept => Self::Kept,
            Tag::Claim => Self::Claim {
                id: RecordId::from_bytes(take(rest).ok_or_else(short)?),
                binding: Digest::from_bytes(take(rest).ok_or_else(short)?),
            },
            Tag::Granted => Self::Granted,
            Tag::Refused => Self::Refused(
                Refusal::ALL
                    .into_iter()
                    .find(|&reason| reason as u32 == stamp)
                    .ok_or_else(|| wrong(format!("refusal {stamp}")))?,
            ),
            Tag::Goodbye => Self::Goodbye,
            Tag::Abort => Self::Abort,
        })
    }
}

impl Refusal {
    const ALL: [Self; 5] =
        [Self::NoStore, Self::Unknown, Self::Used, Self::Mismatch, Self::Damaged];
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (now, later) = rest.split_first_chunk()?;
    *rest = later;
    Some(*now)
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub payload: usize,
    /// The sender's logical time; in control frames 0, the number of the inference, or the reason of a refusal.
    pub stamp: u32,
    pub kind: Kind,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let length = u32::try_from(self.payload).expect("payloads are at most MAX_PAYLOAD");
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.stamp.to_le_bytes());
        bytes[8] = match self.kind {
            Kind::Data => 0,
            Kind::Control(tag) => tag as u8,
        };
        bytes
    }

    /// Reads a header that came from `peer`.
    pub(super) fn decode(bytes: [u8; HEADER], peer: Party) -> Result<Self, RuntimeError> {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind] = bytes;
        let payload = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let stamp = u32::from_le_bytes([s0, s1, s2, s3]);
        let wrong = |expected: String, found: String| RuntimeError::PeerMisbehaved {
            peer,
            what: "frame header",
            expected,
            found,
        };
        let tag = Tag::ALL.into_iter().find(|&tag| tag as u8 == kind);
        let (kind, lengths) = match (kind, tag) {
            (0, _) => (Kind::Data, 1..=MAX_PAYLOAD),
            (_, Some(tag)) => (Kind::Control(tag), tag.payload()..=tag.payload()),
            (other, None) => {
                return Err(wrong("a kind from 0 to 11".into(), format!("kind {other}")));
            }
        };
        if !lengths.contains(&payload) {
            let expected = format!("{} to {} bytes", lengths.start(), lengths.end());
            return Err(wrong(expected, format!("{payload} bytes")));
        }
        Ok(Self { payload, stamp, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire() {
        for payload in [1, MAX_PAYLOAD] {
            let header = Header { payload, stamp: 7, kind: Kind::Data };
            assert_eq!(Header::decode(header.encode(), Party::Client).expect("valid"), header);
        }
        for control in words() {
            let frame = control.encode();
            let (header, payload) = frame.split_first_chunk().expect("a header");
            let header = Header::decode(*header, Party::Client).expect("valid");
            let Kind::Control(tag) = header.kind else { panic!("no data") };
            assert_eq!(header.payload, payload.len());
            let read = Control::decode((tag, header.stamp), payload, Party::Client);
            assert_eq!(read.expect("valid"), control);
        }
    }

    fn words() -> Vec<Control> {
        let mut words = vec![
            Control::Setup,
            Control::Prepare,
            Control::Infer(7),
            Control::Store(StoreId::from_bytes([1; 16])),
            Control::Keep { number: u64::MAX - 3, nonce: [2; 16] },
            Control::Kept,
            Control::Claim {
                id: RecordId::from_bytes([3; 16]),
                binding: Digest::from_bytes([4; 32]),
            },
            Control::Granted,
            Control::Goodbye,
            Control::Abort,
        ];
        words.extend(Refusal::ALL.map(Control::Refused));
        words
    }

    #[test]
    fn an_unknown_refusal_is_refused() {
        let error = Control::decode((Tag::Refused, 5), &[], Party::Server).expect_err("hostile");
        assert!(matches!(error, RuntimeError::PeerMisbehaved { peer: Party::Server, .. }));
    }

    #[test]
    fn hostile_headers_are_refused() {
        let long = [0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0, 0];
        let empty = [0, 0, 0, 0, 1, 0, 0, 0, 0];
        let unknown = [1, 0, 0, 0, 1, 0, 0, 0, 12];
        let talking_control = [1, 0, 0, 0, 1, 0, 0, 0, 2];
        let short_control = [23, 0, 0, 0, 0, 0, 0, 0, 7];
        for bytes in [long, empty, unknown, talking_control, short_control] {
            let error = Header::decode(bytes, Party::Server).expect_err("hostile");
            assert!(matches!(error, RuntimeError::PeerMisbehaved { peer: Party::Server, .. }));
        }
    }
}
