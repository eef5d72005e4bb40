//! The unit on the wire: a header of nine bytes, then the payload.

use super::RuntimeError;
use copriv_ir::Party;

/// Largest payload of a frame. A header that claims more is refused before anything is allocated.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;

/// Bytes before the payload: length (4), stamp (4), kind (1), little endian.
pub(super) const HEADER: usize = 9;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Control(Control),
}

/// A word between sessions, outside all accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Let us make the correlations of another inference; they are numbered 0, 1, ...
    Prepare,
    /// Let us run an inference with the correlations of this number.
    Infer(u32),
    /// Nothing more will come; all went well.
    Goodbye,
    /// Nothing more will come; something failed.
    Abort,
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub payload: usize,
    /// The sender's logical time; in control frames 0, or the number of the inference.
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
            Kind::Control(Control::Prepare) => 1,
            Kind::Control(Control::Infer(_)) => 2,
            Kind::Control(Control::Goodbye) => 3,
            Kind::Control(Control::Abort) => 4,
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
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Control(Control::Prepare),
            2 => Kind::Control(Control::Infer(stamp)),
            3 => Kind::Control(Control::Goodbye),
            4 => Kind::Control(Control::Abort),
            other => return Err(wrong("a kind from 0 to 4".into(), format!("kind {other}"))),
        };
        let lengths = match kind {
            Kind::Data => 1..=MAX_PAYLOAD,
            Kind::Control(_) => 0..=0,
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
        for (payload, kind) in [
            (1, Kind::Data),
            (MAX_PAYLOAD, Kind::Data),
            (0, Kind::Control(Control::Prepare)),
            (0, Kind::Control(Control::Infer(7))),
            (0, Kind::Control(Control::Goodbye)),
            (0, Kind::Control(Control::Abort)),
        ] {
            let header = Header { payload, stamp: 7, kind };
            let read = Header::decode(header.encode(), Party::Client).expect("valid");
            assert_eq!(read, header);
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let long = [0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0, 0];
        let empty = [0, 0, 0, 0, 1, 0, 0, 0, 0];
        let unknown = [1, 0, 0, 0, 1, 0, 0, 0, 9];
        let talking_control = [1, 0, 0, 0, 1, 0, 0, 0, 2];
        for bytes in [long, empty, unknown, talking_control] {
            let error = Header::decode(bytes, Party::Server).expect_err("hostile");
            assert!(matches!(error, RuntimeError::PeerMisbehaved { peer: Party::Server, .. }));
        }
    }
}
