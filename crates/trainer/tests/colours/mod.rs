//! A data set that tiny networks learn in a few steps.

use copriv_trainer::data::{Dataset, Manifest, Split};
use copriv_trainer::train::TrainingData;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::Arc;

/// Pixels a side.
pub const SIDE: usize = 16;

/// Noisy images whose brightest colour is their class.
pub fn colours(split: Split, count: usize) -> Dataset {
    let manifest = r#"
        name = "colours"
        title = "Colours"
        terms = "none"
        layout = "cifar10"
        resolution = 16
        mean = [0.5, 0.5, 0.5]
        std = [0.25, 0.25, 0.25]
        classes = ["red", "green", "blue"]
        [[files]]
        split = "train"
        path = "train.bin"
        records = 1
        sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    "#;
    let manifest = Manifest::parse(manifest, Path::new("colours.toml")).expect("a manifest");
    let mut dataset = Dataset::empty(&manifest, split);
    let mut random = ChaCha8Rng::seed_from_u64(split as u64);
    for index in 0..count {
        let label = index % 3;
        let brightness = |channel| if channel == label { 120 } else { 40 };
        let pixels: Vec<u8> = (0..3 * SIDE * SIDE)
            .map(|i| brightness(i / (SIDE * SIDE)) + random.random_range(0..100))
            .collect();
        dataset.push(&pixels, label);
    }
    dataset
}

/// 72 images to learn from, 20 to measure on.
pub fn data() -> TrainingData {
    TrainingData {
        train: Arc::new(colours(Split::Train, 72)),
        test: Arc::new(colours(Split::Test, 20)),
    }
}
