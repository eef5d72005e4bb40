//! Opening a value to the client.

use crate::packing::{pack, packed_len, unpack};
use crate::{Channel, RuntimeError};
use copriv_ir::{Party, Ring};

/// Opens shares in `ring` to the client; the server learns nothing and gets nothing.
///
/// | server: `x0` | | client: `x1` |
/// |---|---|---|
/// | `x0` | `->` | `x0 + x1` |
///
/// # Errors
/// As [`Channel::send`] and [`Channel::recv`].
pub fn reveal(
    channel: &mut Channel,
    ring: Ring,
    shares: &[u64],
) -> Result<Option<Vec<u64>>, RuntimeError> {
    match channel.party() {
        Party::Server => {
            channel.send(&pack(shares.iter().copied(), ring.bits()))?;
            channel.flush()?;
            Ok(None)
        }
        Party::Client => {
            let theirs = channel.recv(packed_len(shares.len(), ring.bits()))?;
            let theirs = unpack(&theirs, ring.bits(), shares.len());
            let opened = shares.iter().zip(theirs).map(|(&ours, theirs)| ring.add(ours, theirs));
            Ok(Some(opened.collect()))
        }
    }
}
