//! Random 1-of-N transfers of every kind, block by block.

use super::base::BaseOts;
use super::block::{Plane, WORDS, scatter};
use super::iknp::{IknpReceiver, IknpSender};
use super::rows::{ReceiverBlock, SenderBlock};
use super::silent::{SilentReceiver, SilentSender};
use super::soft_spoken::{SoftSpokenReceiver, SoftSpokenSender};
use super::{Code, Prg};
use crate::{Channel, RuntimeError};
use copriv_ir::cost::ot::Choices;
use copriv_ir::{OtKind, Party};
use std::fmt;
use zeroize::Zeroizing;

/// The party that learns all N pads of each transfer.
pub struct OtSender {
    pub(super) iknp: IknpSender,
    pub(super) soft_spoken: Vec<SoftSpokenSender>,
    pub(super) silent: Option<SilentSender>,
}

/// The party that learns one pad of each transfer.
pub struct OtReceiver {
    pub(super) iknp: IknpReceiver,
    pub(super) soft_spoken: Vec<SoftSpokenReceiver>,
    pub(super) silent: Option<SilentReceiver>,
}

impl OtSender {
    /// IKNP alone: the other kinds are added when the session is set up.
    pub(super) fn new(party: Party, base: &BaseOts) -> Self {
        Self { iknp: IknpSender::new(party, base), soft_spoken: Vec::new(), silent: None }
    }

    /// Makes `count` transfers whose choices the peer brings ([`OtReceiver::extend`]), at most
    /// [`BLOCK`](super::BLOCK): receives one message for IKNP, one for each bit of a choice otherwise.
    ///
    /// # Errors
    /// [`RuntimeError::NotSetUp`], [`RuntimeError::NotReserved`] where the session was not prepared for them; as
    /// [`Channel::recv_into`].
    ///
    /// # Panics
    /// If `count` is greater than [`BLOCK`](super::BLOCK).
    pub fn extend(
        &mut self,
        channel: &mut Channel,
        kind: OtKind,
        code: Code,
        count: usize,
    ) -> Result<SenderBlock<'_>, RuntimeError> {
        self.make(channel, kind, code, (count, Choices::Chosen))
    }

    /// Makes `count` transfers in which the peer chooses at random ([`OtReceiver::extend_random`]), at most
    /// [`BLOCK`](super::BLOCK).
    ///
    /// # Errors
    /// As [`Self::extend`].
    ///
    /// # Panics
    /// As [`Self::extend`].
    pub fn extend_random(
        &mut self,
        channel: &mut Channel,
        kind: OtKind,
        code: Code,
        count: usize,
    ) -> Result<SenderBlock<'_>, RuntimeError> {
        self.make(channel, kind, code, (count, Choices::Random))
    }

    fn make(
        &mut self,
        channel: &mut Channel,
        kind: OtKind,
        code: Code,
        (count, choices): (usize, Choices),
    ) -> Result<SenderBlock<'_>, RuntimeError> {
        match kind {
            OtKind::Iknp => self.iknp.extend(channel, code, count),
            OtKind::SoftSpoken2 | OtKind::SoftSpoken4 | OtKind::SoftSpoken8 => {
                let mut all = self.soft_spoken.iter_mut();
                let sender = all.find(|sender| sender.kind() == kind);
                let sender = sender.ok_or(RuntimeError::NotSetUp { kind })?;
                sender.extend(channel, code, count, choices)
            }
            OtKind::Silent => {
                let sender = self.silent.as_mut().ok_or(RuntimeError::NotSetUp { kind })?;
                sender.extend(channel, code, count, choices)
            }
        }
    }
}

impl OtReceiver {
    pub(super) fn new(party: Party, base: &BaseOts) -> Self {
        Self { iknp: IknpReceiver::new(party, base), soft_spoken: Vec::new(), silent: None }
    }

    /// Makes `count` transfers, at most [`BLOCK`](super::BLOCK), with these choices: a plane for each bit of them. What lies
    /// in planes beyond `count` does not matter. The choices stay hidden from the sender.
    ///
    /// # Errors
    /// [`RuntimeError::NotSetUp`], [`RuntimeError::NotReserved`] where the session was not prepared for them; as
    /// [`Channel::send`].
    ///
    /// # Panics
    /// If `count` is greater than [`BLOCK`](super::BLOCK), or there are not as many planes as bits of a choice.
    pub fn extend(
        &mut self,
        channel: &mut Channel,
        kind: OtKind,
        code: Code,
        (count, choices): (usize, &[Plane]),
    ) -> Result<ReceiverBlock<'_>, RuntimeError> {
        assert_eq!(choices.len(), code.bits() as usize, "a plane for each bit of a choice");
        match kind {
            OtKind::Iknp => self.iknp.extend(channel, code, (count, choices)),
            OtKind::SoftSpoken2 | OtKind::SoftSpoken4 | OtKind::SoftSpoken8 => {
                self.soft_spoken(kind)?.extend(channel, (count, choices))
            }
            OtKind::Silent => {
                let receiver = self.silent.as_mut().ok_or(RuntimeError::NotSetUp { kind })?;
                receiver.extend(channel, code, (count, choices))
            }
        }
    }

    /// Makes `count` transfers with random choices, at most [`BLOCK`](super::BLOCK); the choices. Cheaper than
    /// [`Self::extend`] for all kinds but IKNP.
    ///
    /// # Errors
    /// As [`Self::extend`].
    ///
    /// # Panics
    /// As [`Self::extend`].
    pub fn extend_random(
        &mut self,
        channel: &mut Channel,
        kind: OtKind,
        code: Code,
        (count, rng): (usize, &mut Prg),
    ) -> Result<(Zeroizing<Vec<u8>>, ReceiverBlock<'_>), RuntimeError> {
        match kind {
            OtKind::Iknp => {
                let planes = random_planes(rng, code);
                let mut choices = Zeroizing::new(vec![0; count]);
                (0..).zip(&*planes).for_each(|(bit, plane)| scatter(plane, bit, &mut choices));
                let block = self.iknp.extend(channel, code, (count, &planes))?;
                Ok((choices, block))
            }
            OtKind::SoftSpoken2 | OtKind::SoftSpoken4 | OtKind::SoftSpoken8 => {
                self.soft_spoken(kind)?.extend_random(channel, code, count)
            }
            OtKind::Silent => {
                let receiver = self.silent.as_mut().ok_or(RuntimeError::NotSetUp { kind })?;
                receiver.extend_random(code, count)
            }
        }
    }

    fn soft_spoken(&mut self, kind: OtKind) -> Result<&mut SoftSpokenReceiver, RuntimeError> {
        let mut all = self.soft_spoken.iter_mut();
        all.find(|receiver| receiver.kind() == kind).ok_or(RuntimeError::NotSetUp { kind })
    }
}

/// Random choices of a whole block.
fn random_planes(rng: &mut Prg, code: Code) -> Zeroizing<Vec<Plane>> {
    let mut planes = Zeroizing::new(vec![[0; WORDS]; code.bits() as usize]);
    for word in planes.as_flattened_mut() {
        *word = u128::from_le_bytes(rng.array());
    }
    planes
}

impl fmt::Debug for OtSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtSender").finish_non_exhaustive()
    }
}

impl fmt::Debug for OtReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtReceiver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::test_pair::both_with;
    use crate::ot::{BLOCK, Ots};
    use copriv_ir::cost::ot::{chosen, random};
    use copriv_ir::cost::{Offline, OtUse};
    use copriv_ir::{Phase, StepId};
    use std::collections::HashSet;

    /// All pads of the sender, or the receiver's choices and pads.
    #[derive(Default)]
    struct Seen {
        pads: Vec<Vec<u128>>,
        chosen: Vec<(u8, u128)>,
    }

    /// Makes blocks of transfers, the receiver choosing in every other one, and holds the traffic to the prediction.
    fn run(kind: OtKind, sender: Party, blocks: &[(Code, usize)]) -> Seen {
        let cost = |(position, &(code, count)): (usize, &(Code, usize))| {
            let cost = if position % 2 == 0 { random } else { chosen };
            cost(kind, sender, count as u64, code.bits())
        };
        let cost = blocks.iter().enumerate().map(cost).fold(Offline::default(), Offline::beside);
        let (server, client) = both_with(3, &cost.ots, |channel, ots| {
            channel.enter(StepId(1), Phase::Offline).expect("nothing is left");
            let mut seen = Seen::default();
            for (position, &(code, count)) in blocks.iter().enumerate() {
                let at_random = position % 2 == 0;
                if channel.party() == sender {
                    let block = if at_random {
                        ots.sender.extend_random(channel, kind, code, count)
                    } else {
                        ots.sender.extend(channel, kind, code, count)
                    };
                    block.expect("extends").for_each(|_, pads| seen.pads.push(pads.to_vec()));
                    continue;
                }
                let Ots { receiver, rng, .. } = ots;
                let (choices, block) = if at_random {
                    receiver.extend_random(channel, kind, code, (count, rng)).expect("extends")
                } else {
                    let planes = random_planes(rng, code);
                    let mut choices = Zeroizing::new(vec![0; count]);
                    (0..).zip(&*planes).for_each(|(bit, plane)| scatter(plane, bit, &mut choices));
                    let block = receiver.extend(channel, kind, code, (count, &planes));
                    (choices, block.expect("extends"))
                };
                seen.chosen.extend(choices.iter().copied().zip(block.pads().iter().copied()));
            }
            channel.enter(StepId(2), Phase::Offline).expect("nothing is left");
            assert_eq!(channel.comm().traffic(StepId(1), Phase::Offline), cost.traffic);
            seen
        });
        let [sender, receiver] =
            if sender == Party::Server { [server, client] } else { [client, server] };
        Seen { pads: sender.pads, chosen: receiver.chosen }
    }

    #[test]
    fn the_receiver_learns_the_pad_of_its_choice_alone() {
        let blocks: Vec<_> = Code::ALL
            .into_iter()
            .flat_map(|code| [1, 7, 8, 127, 130, 1000, BLOCK, BLOCK].map(|count| (code, count)))
            .collect();
        for (kind, sender) in
            OtKind::ALL.into_iter().zip([Party::Server, Party::Client].into_iter().cycle())
        {
            let Seen { pads, chosen } = run(kind, sender, &blocks);
            assert_eq!(pads.len(), chosen.len());
            let mut seen = HashSet::new();
            let mut choices = HashSet::new();
            for (pads, (choice, pad)) in pads.iter().zip(&chosen) {
                assert_eq!(pads[usize::from(*choice)], *pad, "{kind}");
                assert!(pads.iter().all(|pad| seen.insert(*pad)), "no pad comes twice");
                choices.insert((pads.len(), *choice));
            }
            assert_eq!(choices.len(), 2 + 4 + 8 + 16, "all choices come");
        }
    }

    #[test]
    fn silent_transfers_go_on_across_refills() {
        let blocks = vec![(Code::OneOf2, BLOCK); 2_500_000 / BLOCK];
        let draw = OtUse::new(OtKind::Silent, Party::Server, BLOCK as u64 * blocks.len() as u64);
        let one = OtUse::new(OtKind::Silent, Party::Server, 1);
        let ((offered, _), (_, chosen)) = both_with(5, &one, |channel, ots| {
            // Made for one, and then asked for three expansions.
            ots.reserve(channel, &draw).expect("the peer is honest");
            let (mut offered, mut chosen) = (Vec::new(), Vec::new());
            for &(code, count) in &blocks {
                if channel.party() == Party::Server {
                    let block = ots.sender.extend_random(channel, OtKind::Silent, code, count);
                    block.expect("reserved").for_each(|_, pads| offered.push([pads[0], pads[1]]));
                } else {
                    let (receiver, rng) = (&mut ots.receiver, &mut ots.rng);
                    let block = receiver.extend_random(channel, OtKind::Silent, code, (count, rng));
                    let (choices, block) = block.expect("reserved");
                    chosen.extend(choices.iter().copied().zip(block.pads().iter().copied()));
                }
            }
            (offered, chosen)
        });
        assert_eq!(offered.len(), BLOCK * blocks.len());
        let mut pairs = offered.iter().zip(&chosen);
        assert!(pairs.all(|(pads, &(choice, pad))| pads[usize::from(choice)] == pad));
        let distinct: HashSet<u128> = offered.into_iter().flatten().collect();
        assert_eq!(distinct.len(), 2 * chosen.len(), "no pad comes twice");
    }

    #[test]
    fn what_was_not_set_up_or_reserved_is_an_error() {
        let one = OtUse::new(OtKind::Silent, Party::Server, 1);
        both_with(6, &one, |channel, ots| {
            let (kind, many) = (OtKind::SoftSpoken2, (BLOCK, &mut ots.rng));
            let error = ots.receiver.extend_random(channel, kind, Code::OneOf2, many).map(drop);
            assert!(matches!(error, Err(RuntimeError::NotSetUp { kind: OtKind::SoftSpoken2 })));
            let error = ots.reserve(channel, &OtUse::new(OtKind::Silent, Party::Client, 1));
            assert!(matches!(error, Err(RuntimeError::NotSetUp { kind: OtKind::Silent })));
            if channel.party() == Party::Server {
                for _ in 0..100 {
                    let kind = OtKind::Silent;
                    match ots.sender.extend_random(channel, kind, Code::OneOf2, BLOCK) {
                        Ok(_) => {}
                        Err(error) => {
                            assert!(matches!(error, RuntimeError::NotReserved { .. }), "{error}");
                            return;
                        }
                    }
                }
                panic!("the pool has an end");
            }
        });
    }

    #[test]
    fn a_cut_message_is_a_lost_connection() {
        for kind in [OtKind::Iknp, OtKind::SoftSpoken4] {
            let ots = OtUse::new(kind, Party::Server, 1);
            let (server, _) = both_with(4, &ots, |channel, ots| match channel.party() {
                Party::Server => {
                    let block = ots.sender.extend(channel, kind, Code::OneOf16, 100);
                    Some(block.map(drop).expect_err("cut"))
                }
                Party::Client => {
                    channel.send(&[0; 50]).expect("sends");
                    None
                }
            });
            assert!(matches!(server, Some(RuntimeError::ConnectionLost { .. })));
        }
    }

    #[test]
    fn a_silent_expansion_that_is_cut_is_a_lost_connection() {
        let [one, many] = [1, 1 << 20].map(|n| OtUse::new(OtKind::Silent, Party::Server, n));
        let (_, client) = both_with(4, &one, |channel, ots| match channel.party() {
            Party::Server => {
                channel.send(&[0; 50]).expect("sends");
                None
            }
            Party::Client => Some(ots.reserve(channel, &many).expect_err("cut")),
        });
        assert!(matches!(client, Some(RuntimeError::ConnectionLost { peer: Party::Server, .. })));
    }
}
