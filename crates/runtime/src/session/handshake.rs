//! The first bytes of a session: do both ends speak this protocol, about the same plan?

use crate::{Channel, Control, RuntimeError};
use copriv_ir::{Digest, Party, Plan};

/// The version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u32 = 4;

const MAGIC: &[u8; 8] = b"CoPriv\r\n";

/// Exchanges magic (8 bytes), role (4), version (4) and the plan's digest (32); a client's `first` word leaves
/// with them.
///
/// # Errors
/// [`RuntimeError::NotCoPriv`], [`RuntimeError::Version`], [`RuntimeError::RoleClash`],
/// [`RuntimeError::PlanMismatch`]; [`RuntimeError::ConnectionLost`].
pub(super) fn handshake(
    channel: &mut Channel,
    plan: &Plan,
    first: Option<Control>,
) -> Result<(), RuntimeError> {
    let ours = plan.digest();
    let mut hello = Vec::with_capacity(48);
    hello.extend_from_slice(MAGIC);
    hello.extend_from_slice(&role_number(channel.party()).to_le_bytes());
    hello.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    hello.extend_from_slice(ours.bytes());
    channel.send_raw(&hello)?;
    first.map_or(Ok(()), |word| channel.send_control(word))?;

    let mut magic = [0; 8];
    channel.recv_raw(&mut magic)?;
    if magic != *MAGIC {
        return Err(RuntimeError::NotCoPriv { found: magic.to_vec() });
    }
    let (role, version) = (recv_number(channel)?, recv_number(channel)?);
    if version != PROTOCOL_VERSION {
        return Err(RuntimeError::Version { ours: PROTOCOL_VERSION, theirs: version });
    }
    if role == role_number(channel.party()) {
        return Err(RuntimeError::RoleClash { role: channel.party() });
    }
    if role != role_number(channel.party().peer()) {
        return Err(channel.misbehaved("handshake", "role 0 or 1", format!("role {role}")));
    }
    let mut theirs = [0; 32];
    channel.recv_raw(&mut theirs)?;
    let theirs = Digest::from_bytes(theirs);
    if theirs == ours { Ok(()) } else { Err(RuntimeError::PlanMismatch { ours, theirs }) }
}

fn role_number(party: Party) -> u32 {
    match party {
        Party::Server => 0,
        Party::Client => 1,
    }
}

fn recv_number(channel: &mut Channel) -> Result<u32, RuntimeError> {
    let mut bytes = [0; 4];
    channel.recv_raw(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
