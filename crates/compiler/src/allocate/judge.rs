//! What a plan loses against floating point.

use super::{Search, Verdict};
use crate::CompileError;
use copriv_ir::Widths;
use std::ops::Range;

/// Measures plans on calibration images.
pub(super) struct Judge<'a> {
    search: &'a Search<'a>,
    images: Range<usize>,
    known: Vec<(Widths, Verdict)>,
}

impl<'a> Judge<'a> {
    /// By these images.
    pub(super) fn new(search: &'a Search<'a>, images: Range<usize>) -> Self {
        Self { search, images, known: vec![] }
    }

    /// Plans measured so far.
    pub(super) fn evaluations(&self) -> usize {
        self.known.len()
    }

    /// What the plan of these widths loses.
    pub(super) fn verdict(&mut self, widths: &Widths) -> Result<Verdict, CompileError> {
        if let Some((_, verdict)) = self.known.iter().find(|(known, _)| known == widths) {
            return Ok(*verdict);
        }
        let found = self.search.logits(widths, self.images.clone())?;
        let expected = &self.search.calibration.logits()[self.images.clone()];
        let labels = self.search.calibration.labels().map(|labels| &labels[self.images.clone()]);
        let verdict = verdict(&found, expected, labels);
        self.known.push((widths.clone(), verdict));
        Ok(verdict)
    }
}

fn verdict(found: &[Vec<f64>], expected: &[Vec<f32>], labels: Option<&[usize]>) -> Verdict {
    let images = found.len();
    // What is lost by each image: 1 right before but not after, -1 the other way round.
    let lost: Vec<f64> = found
        .iter()
        .zip(expected)
        .enumerate()
        .map(|(image, (found, expected))| {
            let expected: Vec<f64> = expected.iter().map(|&logit| f64::from(logit)).collect();
            let (after, before) = (largest(found), largest(&expected));
            match labels.map(|labels| labels[image]) {
                Some(label) => {
                    f64::from(u8::from(before == label)) - f64::from(u8::from(after == label))
                }
                None => f64::from(u8::from(before != after)),
            }
        })
        .collect();
    let count = images.max(1) as f64;
    let mean = lost.iter().sum::<f64>() / count;
    let variance = lost.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let error = 100.0 * (variance / count).sqrt();
    Verdict { drop: 100.0 * mean, error, images, labelled: labels.is_some() }
}

/// The first class with the largest logit.
fn largest(logits: &[f64]) -> usize {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = class;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_count_what_is_lost_and_won_classes_what_changes() {
        let expected = vec![vec![1.0, 0.0], vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0]];
        let found = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0], vec![0.0, 1.0]];
        // The second is lost, the third won, the fourth lost.
        let labelled = verdict(&found, &expected, Some(&[0, 0, 0, 0]));
        assert_eq!((labelled.drop, labelled.images, labelled.labelled), (25.0, 4, true));
        assert!((labelled.error - 100.0 * (0.6875f64 / 4.0).sqrt()).abs() < 1e-9);
        let unlabelled = verdict(&found, &expected, None);
        assert_eq!((unlabelled.drop, unlabelled.labelled), (75.0, false));
        assert!(unlabelled.is_within(97.0) && !unlabelled.is_within(90.0));
    }
}
