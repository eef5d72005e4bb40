//! Base oblivious transfers from the discrete logarithm problem.

use super::Prg;
use crate::{Channel, RuntimeError};
use copriv_ir::cost::ot::BASE_OTS;
use copriv_ir::{Digest, Party};
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoBasepointTable, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{Identity, IsIdentity};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Transfers in each direction.
pub(super) const COUNT: usize = BASE_OTS as usize;

/// Bytes of a point on the wire.
const POINT: usize = 32;

/// What a party knows after the base transfers of both directions.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct BaseOts {
    /// Its secret choices, 0 or 1.
    pub choices: Vec<u8>,
    /// The key of each choice; the peer knows it and the other one.
    pub chosen: Vec<[u8; 16]>,
    /// Both keys of the transfers in which the peer chooses.
    pub both: Vec<[[u8; 16]; 2]>,
    /// Digest of both parties' first points: the same at both, and no other session's.
    #[zeroize(skip)]
    pub session: Digest,
}

/// Runs the transfers of both directions at once (Chou and Orlandi, LATINCRYPT 2015, over Ristretto).
///
/// | server | | client |
/// |---|---|---|
/// | `A = a G` | `<->` | `A' = a' G` |
/// | `B_i = b_i G + c_i A'` | `<->` | `B'_i = b'_i G + c'_i A` |
/// | chosen key `H(b_i A')`, both keys `H(a B'_i), H(a (B'_i - A))` | | the same with the roles exchanged |
pub(super) fn run(channel: &mut Channel, rng: &mut Prg) -> Result<BaseOts, RuntimeError> {
    let secret = random_scalar(rng);
    let point = RistrettoPoint::mul_base(&secret);
    let mut theirs = [0; POINT];
    let ours = point.compress();
    channel.exchange(ours.as_bytes(), &mut theirs)?;
    let theirs = CompressedRistretto(theirs);
    let their_point = decode(channel, theirs)?;
    if their_point.is_identity() {
        return Err(channel.misbehaved("base OT", "a point other than zero", "zero"));
    }

    let [server, client] = match channel.party() {
        Party::Server => [ours, theirs],
        Party::Client => [theirs, ours],
    };
    let session = Digest::of([&b"session"[..], server.as_bytes(), client.as_bytes()]);
    let mut base = BaseOts::new(session);
    rng.fill(&mut base.choices);
    base.choices.iter_mut().for_each(|choice| *choice &= 1);
    let request = choose(rng, &mut base, channel.party().peer(), (theirs, their_point));
    let mut answers = vec![0; COUNT * POINT];
    channel.exchange(&request, &mut answers)?;
    offer(channel, &mut base, &answers, (&secret, point))?;
    Ok(base)
}

impl BaseOts {
    /// Choices yet to be drawn, and room for all keys.
    fn new(session: Digest) -> Self {
        let (chosen, both) = (Vec::with_capacity(COUNT), Vec::with_capacity(COUNT));
        Self { choices: vec![0; COUNT], chosen, both, session }
    }
}

/// The receiver's points for all choices; its keys become part of `base`. `sender` has sent `point`.
fn choose(
    rng: &mut Prg,
    base: &mut BaseOts,
    sender: Party,
    (encoded, point): (CompressedRistretto, RistrettoPoint),
) -> Vec<u8> {
    let table = RistrettoBasepointTable::create(&point);
    let mut request = Vec::with_capacity(COUNT * POINT);
    for (index, &choice) in base.choices.iter().enumerate() {
        let blind = random_scalar(rng);
        let zero = RistrettoPoint::identity();
        let shift = RistrettoPoint::conditional_select(&zero, &point, Choice::from(choice));
        let answer = (RistrettoPoint::mul_base(&blind) + shift).compress();
        request.extend_from_slice(answer.as_bytes());
        base.chosen.push(key(sender, index, [&encoded, &answer], &(&*blind * &table)));
    }
    request
}

/// The sender's keys from the receiver's points: they become part of `base`.
fn offer(
    channel: &Channel,
    base: &mut BaseOts,
    answers: &[u8],
    (secret, point): (&Scalar, RistrettoPoint),
) -> Result<(), RuntimeError> {
    let encoded = point.compress();
    let shift = point * secret;
    let (answers, _) = answers.as_chunks::<POINT>();
    for (index, answer) in answers.iter().enumerate() {
        let answer = CompressedRistretto(*answer);
        let shared = decode(channel, answer)? * secret;
        let key = |shared| key(channel.party(), index, [&encoded, &answer], shared);
        base.both.push([key(&shared), key(&(shared - shift))]);
    }
    Ok(())
}

fn decode(channel: &Channel, point: CompressedRistretto) -> Result<RistrettoPoint, RuntimeError> {
    let no_point = || channel.misbehaved("base OT", "a point of Ristretto", "no point");
    point.decompress().ok_or_else(no_point)
}

/// Hashes the shared point together with all that is public about the transfer.
fn key(
    sender: Party,
    index: usize,
    public: [&CompressedRistretto; 2],
    shared: &RistrettoPoint,
) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(b"CoPriv base OT");
    hash.update([u8::from(sender == Party::Client)]);
    hash.update((index as u64).to_le_bytes());
    public.into_iter().chain([&shared.compress()]).for_each(|point| hash.update(point.as_bytes()));
    let mut digest = hash.finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    digest.zeroize();
    key
}

fn random_scalar(rng: &mut Prg) -> Zeroizing<Scalar> {
    let bytes = Zeroizing::new(rng.array());
    Zeroizing::new(Scalar::from_bytes_mod_order_wide(&bytes))
}

#[cfg(test)]
impl BaseOts {
    /// A party's transfers with itself.
    pub(super) fn random(seed: u8) -> Self {
        let mut rng = Prg::from_seed(&[seed; 16]);
        let both: Vec<[[u8; 16]; 2]> = (0..COUNT).map(|_| [rng.array(), rng.array()]).collect();
        let choices: Vec<u8> = rng.array::<COUNT>().iter().map(|byte| byte & 1).collect();
        let chosen =
            both.iter().zip(&choices).map(|(keys, &choice)| keys[usize::from(choice)]).collect();
        Self { choices, chosen, both, session: Digest::of([]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::test_pair::both;

    #[test]
    fn the_receiver_learns_the_key_of_its_choice() {
        let (server, client) =
            both(|channel| run(channel, &mut Prg::from_seed(&[channel.party() as u8; 16])));
        let (server, client) = (server.expect("runs"), client.expect("runs"));
        for (chooser, offerer) in [(&server, &client), (&client, &server)] {
            assert!(chooser.choices.contains(&0) && chooser.choices.contains(&1));
            for ((&choice, chosen), both) in
                chooser.choices.iter().zip(&chooser.chosen).zip(&offerer.both)
            {
                assert_eq!(*chosen, both[usize::from(choice)]);
                assert_ne!(both[0], both[1]);
            }
        }
    }

    #[test]
    fn what_is_no_point_is_refused() {
        for bytes in [[0xff; POINT], [0; POINT]] {
            let (server, _) = both(|channel| match channel.party() {
                Party::Server => run(channel, &mut Prg::from_seed(&[1; 16])).map(drop),
                Party::Client => channel.send(&bytes).and_then(|()| channel.flush()),
            });
            let error = server.expect_err("refused");
            assert!(matches!(error, RuntimeError::PeerMisbehaved { peer: Party::Client, .. }));
        }
    }
}
