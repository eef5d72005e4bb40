//! Oblivious transfer: base transfers, their extension, bit triples.
//!
//! Everything made here is a correlation between the parties that must be used once: such types are
//! neither `Clone` nor `Copy`, and the online protocols take them by value.

mod base;
mod block;
mod code;
mod extension;
mod hash;
mod prg;
mod transpose;
mod triples;

pub use block::BLOCK;
pub use code::Code;
pub use extension::{OtReceiver, OtSender, ReceiverBlock, SenderBlock};
pub use hash::TweakedHash;
pub use prg::Prg;
pub use triples::{Pairs, Singles};

pub(crate) use triples::random_choices;

use crate::{Channel, RuntimeError};

/// One party's end of the OT extensions in both directions, and its private randomness.
#[derive(Debug)]
pub struct Ots {
    /// Transfers in which this party offers.
    pub sender: OtSender,
    /// Transfers in which this party chooses.
    pub receiver: OtReceiver,
    /// Randomness of this party alone.
    pub rng: Prg,
}

impl Ots {
    /// Runs the base transfers of both directions: 7,712 bytes each way, 2 rounds.
    ///
    /// # Errors
    /// [`RuntimeError::PeerMisbehaved`] on points that are none; as [`Channel::exchange`].
    pub fn setup(channel: &mut Channel, mut rng: Prg) -> Result<Self, RuntimeError> {
        let party = channel.party();
        let base = base::run(channel, &mut rng)?;
        let (sender, receiver) = (OtSender::new(party, &base), OtReceiver::new(party, &base));
        Ok(Self { sender, receiver, rng })
    }
}

#[cfg(test)]
pub(crate) mod test_pair {
    //! Both parties of a test, each on its own thread.

    use super::{Ots, Prg};
    use crate::Channel;
    use copriv_ir::Party;
    use std::thread;

    /// What `f` gives as server and as client, over one line.
    pub fn both<T: Send>(f: impl Fn(&mut Channel) -> T + Sync) -> (T, T) {
        let (mut server, mut client) = Channel::pair().expect("threads start");
        thread::scope(|scope| {
            let f = &f;
            let server = scope.spawn(move || f(&mut server));
            let client = scope.spawn(move || f(&mut client));
            (server.join().expect("no panic"), client.join().expect("no panic"))
        })
    }

    /// The same after the base transfers, with randomness from `seed`.
    pub fn both_with_ots<T: Send>(
        seed: u8,
        f: impl Fn(&mut Channel, &mut Ots) -> T + Sync,
    ) -> (T, T) {
        both(|channel| {
            let rng =
                Prg::from_seed(&[seed ^ (u8::from(channel.party() == Party::Client) << 7); 16]);
            let mut ots = Ots::setup(channel, rng).expect("base transfers run");
            f(channel, &mut ots)
        })
    }
}
