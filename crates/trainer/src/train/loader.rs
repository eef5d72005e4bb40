//! Batches prepared by worker threads while the device computes.
//!
//! Worker w of n prepares batches w, w + n, ... and hands them over by a bounded queue of its own, so that batches
//! come in order, at most [`AHEAD`] a worker wait, and nothing depends on the threads.

use super::batch::Batch;
use crate::data::{Augmentation, DataError, Images, Mixing, SampleKey};
use copriv_ir::InputSpec;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

/// Batches that each worker prepares ahead.
const AHEAD: usize = 2;

/// Which batches there are, and what is done to their images.
pub(super) struct BatchPlan<'a> {
    pub(super) images: &'a dyn Images,
    pub(super) input: InputSpec,
    /// Positions in the data set, in the order of the epoch.
    pub(super) order: &'a [usize],
    pub(super) batch_size: usize,
    pub(super) label_smoothing: f64,
    /// `None` for images as they are.
    pub(super) variation: Option<Variation>,
}

/// How images of training batches are varied.
#[derive(Clone, Copy)]
pub(super) struct Variation {
    pub(super) augmentation: Augmentation,
    pub(super) mixing: Mixing,
    pub(super) seed: u64,
    pub(super) epoch: u64,
}

impl<'a> BatchPlan<'a> {
    /// These images as they are.
    pub(super) fn plain(
        images: &'a dyn Images,
        input: InputSpec,
        order: &'a [usize],
        batch_size: usize,
    ) -> Self {
        Self { images, input, order, batch_size, label_smoothing: 0.0, variation: None }
    }

    /// Number of batches; the last may be smaller.
    pub(super) fn len(&self) -> usize {
        self.order.len().div_ceil(self.batch_size.max(1))
    }

    fn batch(&self, number: usize) -> Result<Batch, DataError> {
        let start = (number * self.batch_size).min(self.order.len());
        let end = (start + self.batch_size).min(self.order.len());
        let indices = &self.order[start..end];
        let labels = |&index: &usize| self.images.labels().get(index).copied().unwrap_or_default();
        let classes = self.images.classes().len();
        let mut batch =
            Batch::empty(indices.iter().map(labels).collect(), classes, self.label_smoothing);
        for &index in indices {
            let image = match self.variation {
                None => self.input.normalise(&self.images.pixels(index)?),
                Some(Variation { augmentation, seed, epoch, .. }) => {
                    let key = SampleKey { seed, epoch, index: index as u64 };
                    augmentation.image(self.images, &self.input, key)?
                }
            };
            batch.images.extend(image);
        }
        if let Some(Variation { mixing, seed, epoch, .. }) = self.variation {
            let key = SampleKey { seed, epoch, index: number as u64 };
            mixing.apply(&mut batch.images, &mut batch.targets, self.input.shape, key);
        }
        Ok(batch)
    }

    fn work(&self, first: usize, step: usize, queue: &SyncSender<Result<Batch, DataError>>) {
        for number in (first..self.len()).step_by(step) {
            let batch = self.batch(number);
            let failed = batch.is_err();
            // Nobody listens any more once the run was stopped.
            if queue.send(batch).is_err() || failed {
                return;
            }
        }
    }
}

/// The batches of a plan, in order.
pub(super) struct Batches {
    queues: Vec<Receiver<Result<Batch, DataError>>>,
    next: usize,
}

impl Batches {
    /// Starts the workers; batches before number `first` are left out.
    pub(super) fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        plan: &'scope BatchPlan<'env>,
        workers: usize,
        first: usize,
    ) -> Self {
        let workers = workers.max(1);
        let worker = |number: usize| {
            let (sender, receiver) = sync_channel(AHEAD);
            scope.spawn(move || plan.work(first + number, workers, &sender));
            receiver
        };
        Self { queues: (0..workers).map(worker).collect(), next: 0 }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let queue = self.next % self.queues.len().max(1);
        self.next += 1;
        // A worker that is through hangs up.
        self.queues.get(queue)?.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Manifest, RandAugment, Split};
    use copriv_ir::Shape;
    use image::RgbImage;
    use std::borrow::Cow;
    use std::path::Path;
    use std::thread::scope;

    fn dataset() -> Dataset {
        let text = r#"
            name = "few"
            title = "Few"
            terms = "none"
            layout = "cifar10"
            resolution = 6
            mean = [0.5, 0.5, 0.5]
            std = [0.25, 0.25, 0.25]
            classes = ["even", "odd"]
            [[files]]
            split = "train"
            path = "train.bin"
            records = 1
            sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
        "#;
        let manifest = Manifest::parse(text, Path::new("few.toml")).expect("sound");
        let mut dataset = Dataset::empty(&manifest, Split::Train);
        for image in 0..23u32 {
            let pixels: Vec<u8> = (0..108).map(|i| ((i + 1) * (image + 3) % 251) as u8).collect();
            dataset.push(&pixels, image as usize % 2);
        }
        dataset
    }

    fn plan<'a>(images: &'a dyn Images, order: &'a [usize], varied: bool) -> BatchPlan<'a> {
        let augmentation = Augmentation {
            rand_augment: Some(RandAugment::default()),
            erasing: 0.5,
            ..Augmentation::default()
        };
        let mixing = Mixing { mixup: 0.5, cutmix: 1.0 };
        let (mean, std) = images.statistics();
        BatchPlan {
            images,
            input: InputSpec { shape: images.shape(), mean, std },
            order,
            batch_size: 4,
            label_smoothing: 0.1,
            variation: varied.then_some(Variation { augmentation, mixing, seed: 1, epoch: 2 }),
        }
    }

    fn collect(plan: &BatchPlan<'_>, workers: usize, first: usize) -> Vec<Batch> {
        scope(|scope| {
            Batches::start(scope, plan, workers, first)
                .collect::<Result<_, _>>()
                .expect("in memory")
        })
    }

    #[test]
    fn batches_do_not_depend_on_the_workers() {
        let (dataset, order): (_, Vec<usize>) = (dataset(), (0..23).rev().collect());
        for varied in [false, true] {
            let plan = plan(&dataset, &order, varied);
            let expected = collect(&plan, 1, 0);
            assert_eq!(expected.len(), 6);
            assert_eq!(expected[5].labels.len(), 3);
            for workers in [2, 3, 9] {
                assert_eq!(collect(&plan, workers, 0), expected);
                assert_eq!(collect(&plan, workers, 4), expected[4..]);
            }
            for target in expected.iter().flat_map(|batch| batch.targets.chunks(2)) {
                assert!((target.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn workers_end_when_nobody_takes_their_batches() {
        let (dataset, order): (_, Vec<usize>) = (dataset(), (0..23).collect());
        let plan = plan(&dataset, &order, true);
        // The scope would not end otherwise.
        scope(|scope| drop(Batches::start(scope, &plan, 2, 0).next()));
    }

    /// Its sixth image cannot be read.
    #[derive(Debug)]
    struct Broken(Dataset);

    impl Images for Broken {
        fn name(&self) -> &str {
            "broken"
        }

        fn shape(&self) -> Shape {
            self.0.shape()
        }

        fn classes(&self) -> &[String] {
            self.0.classes()
        }

        fn statistics(&self) -> ([f32; 3], [f32; 3]) {
            (self.0.mean(), self.0.std())
        }

        fn labels(&self) -> &[usize] {
            self.0.labels()
        }

        fn pixels(&self, index: usize) -> Result<Cow<'_, [u8]>, DataError> {
            if index == 5 {
                let (path, reason) = ("5.png".into(), "damaged".into());
                return Err(DataError::Picture { path, reason });
            }
            self.0.pixels(index)
        }

        fn picture(&self, _: usize) -> Result<RgbImage, DataError> {
            Ok(RgbImage::default())
        }
    }

    #[test]
    fn an_image_that_cannot_be_read_is_an_error_in_its_place() {
        let (broken, order): (_, Vec<usize>) = (Broken(dataset()), (0..23).collect());
        let plan = plan(&broken, &order, true);
        let results: Vec<bool> =
            scope(|scope| Batches::start(scope, &plan, 1, 0).map(|batch| batch.is_ok()).collect());
        assert_eq!(results, [true, false]);
    }
}
