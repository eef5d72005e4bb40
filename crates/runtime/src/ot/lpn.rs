//! Learning parity with noise: a short secret made into a long one by a sparse public matrix.

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Block};

/// Ones in a row of the matrix: the code is "10-local".
const WEIGHT: usize = 10;

/// Bits of a pseudo-random block that make one index.
const INDEX_BITS: u32 = 25;

/// Rows whose indices are made at a time.
const BATCH: usize = 64;

/// Adds to each output the sum of ten elements of `secret`, whose length is a power of two of at most `2^25`.
///
/// Which ones is public and always the same: row `j` takes its indices from AES blocks `2 j` and `2 j + 1`, 25 bits each,
/// under the first digits of pi. `outputs` begin with row `first`.
pub(super) fn add_secret(secret: &[u128], outputs: &mut [u128], first: usize) {
    let generator =
        Aes128Enc::new(&0x243f_6a88_85a3_08d3_1319_8a2e_0370_7344_u128.to_be_bytes().into());
    let mask = secret.len() - 1;
    let mut blocks = [Block::default(); 2 * BATCH];
    for (batch, outputs) in outputs.chunks_mut(BATCH).enumerate() {
        for (block, counter) in blocks.iter_mut().zip(2 * (first + batch * BATCH) as u128..) {
            *block = counter.to_le_bytes().into();
        }
        generator.encrypt_blocks(&mut blocks);
        for (output, [low, high]) in outputs.iter_mut().zip(blocks.as_chunks::<2>().0) {
            let [low, high] = [low, high].map(|block| u128::from_le_bytes((*block).into()));
            let mut sum = *output;
            for index in 0..WEIGHT as u32 / 2 {
                let shift = index * INDEX_BITS;
                sum ^= secret[(low >> shift) as usize & mask];
                sum ^= secret[(high >> shift) as usize & mask];
            }
            *output = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_linear_and_sparse() {
        let size = 1 << 12;
        let image = |secret: &[u128]| {
            let mut outputs = vec![0; 5000];
            let (some, others) = outputs.split_at_mut(1234);
            add_secret(secret, some, 0);
            add_secret(secret, others, 1234);
            outputs
        };
        let (a, b): (Vec<u128>, Vec<u128>) = (0..size).map(|i| (i * i * 77, i << 90 | 3)).unzip();
        let sum: Vec<u128> = a.iter().zip(&b).map(|(a, b)| a ^ b).collect();
        let images = image(&a).into_iter().zip(image(&b));
        assert_eq!(image(&sum), images.map(|(a, b)| a ^ b).collect::<Vec<_>>());
        let unit: Vec<u128> = (0..size).map(|i| u128::from(i == 5)).collect();
        let ones = image(&unit).iter().filter(|&&bit| bit == 1).count();
        assert!((1..40).contains(&ones), "about 12, not {ones}");
        let mut whole = vec![0; 5000];
        add_secret(&a, &mut whole, 0);
        assert_eq!(whole, image(&a), "in parts or not");
    }
}
