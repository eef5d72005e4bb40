//! What a right answer is, for everything that measures networks.

use serde::{Deserialize, Serialize};
use std::iter::Sum;

/// How well a network answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Images seen.
    pub count: usize,
    /// Share answered right, 0..1.
    pub top1: f64,
    /// Share with the right answer among the five largest logits.
    pub top5: f64,
    /// Mean cross entropy in nats, without smoothing.
    pub loss: f64,
}

/// Counts of right answers, and the sum of the losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    count: usize,
    top1: usize,
    top5: usize,
    loss: f64,
}

impl Tally {
    /// Of one image with these logits, one a class, and its label.
    #[must_use]
    pub fn of<T: Copy + Into<f64>>(logits: &[T], label: usize) -> Self {
        let rank = rank(logits, label);
        let is_among = |first: usize| usize::from(rank.is_some_and(|rank| rank < first));
        let loss = cross_entropy(logits, label);
        Self { count: 1, top1: is_among(1), top5: is_among(5), loss }
    }

    /// The shares and the mean; zeros where nothing was counted.
    #[must_use]
    pub fn accuracy(&self) -> Accuracy {
        let Self { count, top1, top5, loss } = *self;
        let images = count.max(1) as f64;
        Accuracy {
            count,
            top1: top1 as f64 / images,
            top5: top5 as f64 / images,
            loss: loss / images,
        }
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, next| Self {
            count: sum.count + next.count,
            top1: sum.top1 + next.top1,
            top5: sum.top5 + next.top5,
            loss: sum.loss + next.loss,
        })
    }
}

/// How many logits come before the label's in falling order, those of equal size in the order of the classes. `None`, which
/// is no right answer, where the label's own is not finite or not there.
pub(super) fn rank<T: Copy + Into<f64>>(logits: &[T], label: usize) -> Option<usize> {
    let own: f64 = (*logits.get(label)?).into();
    let is_before = |&(class, &logit): &(usize, &T)| {
        let logit: f64 = logit.into();
        logit > own || (logit == own && class < label)
    };
    own.is_finite().then(|| logits.iter().enumerate().filter(is_before).count())
}

fn cross_entropy<T: Copy + Into<f64>>(logits: &[T], label: usize) -> f64 {
    let logits = || logits.iter().map(|&logit| -> f64 { logit.into() });
    let own = logits().nth(label).unwrap_or(f64::NEG_INFINITY);
    let largest = logits().fold(f64::NEG_INFINITY, f64::max);
    let partition: f64 = logits().map(|logit| (logit - largest).exp()).sum();
    partition.ln() + largest - own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_ranked_by_their_logits() {
        let logits = [0.0f32, 2.0, 1.0, -1.0, 3.0, 4.0, 5.0];
        assert_eq!(rank(&logits, 6), Some(0));
        assert_eq!(rank(&logits, 1), Some(3));
        let tally: Tally = [6, 1, 0].into_iter().map(|label| Tally::of(&logits, label)).sum();
        let Accuracy { count, top1, top5, .. } = tally.accuracy();
        assert_eq!((count, top1, top5), (3, 1.0 / 3.0, 2.0 / 3.0));
        assert!((Tally::of(&[0.0, 0.0], 1).accuracy().loss - 2f64.ln()).abs() < 1e-12);
        // Large logits do not overflow.
        assert!((Tally::of(&[1000.0, 1000.0], 0).accuracy().loss - 2f64.ln()).abs() < 1e-9);
        assert_eq!(Tally::default().accuracy().top1, 0.0);
    }

    #[test]
    fn of_equal_logits_the_first_is_the_answer() {
        let ranks = |logits: &[f64]| (0..logits.len()).map(|l| rank(logits, l)).collect::<Vec<_>>();
        assert_eq!(ranks(&[1.0, 2.0, 2.0]), [Some(2), Some(0), Some(1)]);
        // A network that says nothing is right by chance alone.
        let labels = 0..10;
        let tally: Tally = labels.map(|label| Tally::of(&[0.0; 10], label)).sum();
        assert_eq!((tally.accuracy().top1, tally.accuracy().top5), (0.1, 0.5));
    }

    #[test]
    fn what_is_no_number_is_never_right() {
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        for logits in [[nan; 3], [infinity; 3], [-infinity; 3]] {
            let tally: Tally = (0..3).map(|label| Tally::of(&logits, label)).sum();
            let Accuracy { top1, top5, loss, .. } = tally.accuracy();
            assert!(top1 == 0.0 && top5 == 0.0 && loss.is_nan(), "{logits:?}");
        }
        assert_eq!([0, 1, 2].map(|label| rank(&[nan, 1.0, 0.0], label)), [None, Some(0), Some(1)]);
        assert_eq!(rank(&[infinity, 1.0], 1), Some(1));
        assert_eq!(rank(&[0.0], 1), None, "no such class");
        assert!(Tally::of(&[0.0], 1).accuracy().loss.is_infinite());
    }
}
