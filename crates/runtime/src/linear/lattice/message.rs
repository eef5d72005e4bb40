//! Messages that are of one inference alone, and seeds for it.

use crate::RuntimeError;
use copriv_ir::lattice::{SecretSeed, UPLOAD_TAG};
use copriv_ir::{Digest, Party, StepId};
use zeroize::Zeroizing;

/// 32 bytes that nothing else has.
pub(super) fn fresh_seed() -> Result<SecretSeed, RuntimeError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|source| RuntimeError::Randomness { source })?;
    Ok(SecretSeed::new(*seed))
}

/// A message with its tag in the place that was left for it.
pub(super) fn tagged(mut message: Vec<u8>, name: Digest, from: (StepId, Party)) -> Vec<u8> {
    if let Some((place, content)) = message.split_first_chunk_mut() {
        *place = tag(name, from, content);
    }
    message
}

/// What a message says, where its tag is that of this inference, step and sender.
pub(super) fn content(message: &[u8], name: Digest, from: (StepId, Party)) -> Option<&[u8]> {
    let (found, content) = message.split_first_chunk()?;
    (*found == tag(name, from, content)).then_some(content)
}

/// What a message from a party begins with in the inference of this name.
fn tag(name: Digest, (step, sender): (StepId, Party), content: &[u8]) -> [u8; UPLOAD_TAG] {
    let place = [(step.0 as u64).to_le_bytes(), (sender as u64).to_le_bytes()];
    let digest = Digest::of([name.bytes(), place.as_flattened(), content]);
    *digest.bytes().first_chunk().expect("a digest is longer than a tag")
}
