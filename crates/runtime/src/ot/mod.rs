//! Oblivious transfer: base transfers, their extension, bit triples.
//!
//! Everything made here is a correlation between the parties that must be used once: such types are
//! neither `Clone` nor `Copy`, and the online protocols take them by value.

mod base;
mod block;
mod cipher;
mod code;
mod extension;
mod field;
mod hash;
mod iknp;
mod lpn;
mod noise_tree;
mod prg;
mod rows;
mod seed_tree;
mod selected;
mod silent;
mod soft_spoken;
mod transpose;
mod triples;
#[cfg(target_arch = "x86_64")]
mod wide_aes;

pub use block::{BLOCK, Plane};
pub use code::Code;
pub use extension::{OtReceiver, OtSender};
pub use hash::TweakedHash;
pub use prg::Prg;
pub use rows::{OfferedRows, ReceiverBlock, SenderBlock};
pub use triples::{Pairs, Singles};

use crate::{Channel, RuntimeError};
use copriv_ir::cost::ot::{SEED_FIELD, SOFT_SPOKEN_FIELDS};
use copriv_ir::cost::{OtUse, SilentPool};
use copriv_ir::{Digest, OtKind};
use silent::{SilentReceiver, SilentSender};
use soft_spoken::{SoftSpokenReceiver, SoftSpokenSender};

/// One party's end of the OT extensions in both directions, and its private randomness.
#[derive(Debug)]
pub struct Ots {
    /// Transfers in which this party offers.
    pub sender: OtSender,
    /// Transfers in which this party chooses.
    pub receiver: OtReceiver,
    /// Randomness of this party alone.
    pub rng: Prg,
    session: Digest,
    /// Inferences prepared in the session so far.
    inferences: u64,
}

impl Ots {
    /// Runs the base transfers of both directions, 7,712 bytes each way, 2 rounds; then sets up the other kinds that
    /// an inference draws on: [`copriv_ir::cost::SessionCost::setup`].
    ///
    /// # Errors
    /// [`RuntimeError::PeerMisbehaved`] on points that are none; as [`Channel::exchange`].
    pub fn setup(channel: &mut Channel, mut rng: Prg, ots: &OtUse) -> Result<Self, RuntimeError> {
        let party = channel.party();
        let base = base::run(channel, &mut rng)?;
        channel.barrier();
        let (mut sender, mut receiver) =
            (OtSender::new(party, &base), OtReceiver::new(party, &base));
        let silent = |sender| SilentPool::new(sender, ots.silent(sender));
        let fields = |sender| {
            let seeds = silent(sender).is_some();
            let used = move |&k: &u32| ots.soft_spoken(sender, k) || k == SEED_FIELD && seeds;
            SOFT_SPOKEN_FIELDS.into_iter().filter(used)
        };
        for k in fields(party.peer()) {
            receiver.soft_spoken.push(SoftSpokenReceiver::setup(channel, &base, k)?);
        }
        for k in fields(party) {
            sender.soft_spoken.push(SoftSpokenSender::setup(channel, &base, k)?);
        }
        channel.barrier();
        // The field of the seeds is the last of those in use.
        if let (Some(pool), Some(seeder)) = (silent(party.peer()), receiver.soft_spoken.last_mut())
        {
            receiver.silent = Some(SilentReceiver::setup(channel, seeder, pool.set())?);
        }
        if let (Some(pool), Some(seeder)) = (silent(party), sender.soft_spoken.last_mut()) {
            sender.silent = Some(SilentSender::setup(channel, seeder, pool.set())?);
        }
        channel.barrier();
        sender.silent.iter_mut().try_for_each(|silent| silent.grow_seeds(channel))?;
        receiver.silent.iter_mut().try_for_each(|silent| silent.grow_seeds(channel))?;
        channel.barrier();
        Ok(Self { sender, receiver, rng, session: base.session, inferences: 0 })
    }

    /// What names the next inference of this session: the same at both parties, and of no other inference.
    pub(crate) fn begin_inference(&mut self) -> Digest {
        self.inferences += 1;
        Digest::of([self.session.bytes(), &self.inferences.to_le_bytes()[..]])
    }

    /// Makes ready the silent transfers that a step draws; nothing where enough are left. Both parties call it with the
    /// same numbers before the step's first message: [`copriv_ir::cost::SessionCost::fill`].
    ///
    /// # Errors
    /// [`RuntimeError::NotSetUp`] where the session was set up for none; as [`Channel::send`] and
    /// [`Channel::recv`].
    pub fn reserve(&mut self, channel: &mut Channel, ots: &OtUse) -> Result<(), RuntimeError> {
        let party = channel.party();
        let (offered, chosen) = (ots.silent(party), ots.silent(party.peer()));
        let mut sender = self.sender.silent.as_mut();
        let mut receiver = self.receiver.silent.as_mut();
        let is_set_up = (offered == 0 || sender.is_some()) && (chosen == 0 || receiver.is_some());
        if !is_set_up {
            return Err(RuntimeError::NotSetUp { kind: OtKind::Silent });
        }
        let mut lane = channel.lane();
        let mut more = true;
        while more {
            more = false;
            if let Some(sender) = &mut sender {
                more |= sender.refill(&mut lane, offered)?;
            }
            if let Some(receiver) = &mut receiver {
                more |= receiver.refill(&mut lane, chosen)?;
            }
        }
        drop(lane);
        channel.barrier();
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod test_pair {
    //! Both parties of a test, each on its own thread.

    use super::{Ots, Prg};
    use crate::Channel;
    use copriv_ir::Party;
    use copriv_ir::cost::OtUse;
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
        both_with(seed, &OtUse::default(), f)
    }

    /// The same after the set-up for what `ots` says, which is ready for use.
    pub fn both_with<T: Send>(
        seed: u8,
        ots: &OtUse,
        f: impl Fn(&mut Channel, &mut Ots) -> T + Sync,
    ) -> (T, T) {
        let reserved = ots;
        both(|channel| {
            let rng =
                Prg::from_seed(&[seed ^ (u8::from(channel.party() == Party::Client) << 7); 16]);
            let mut ots = Ots::setup(channel, rng, reserved).expect("the set-up runs");
            ots.reserve(channel, reserved).expect("the peer is honest");
            f(channel, &mut ots)
        })
    }
}
