//! What a plan tells the client.

use super::{Plan, StepOp, ValueId};

/// What the client learns of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The logits.
    Logits,
    /// Which class has the greatest logit, the first of several, and nothing else.
    Class {
        /// The logits, which stay shared.
        logits: ValueId,
    },
}

impl Plan {
    /// What the plan tells the client.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let revealed = self.steps().last().and_then(|step| step.inputs.first());
        let maker = revealed.and_then(|value| self.steps().get(value.0));
        match maker.map(|step| (&step.op, step.inputs.first())) {
            Some((StepOp::ArgMax { .. }, Some(&logits))) => Answer::Class { logits },
            _ => Answer::Logits,
        }
    }
}

/// Binary digits of the number of one of `classes` classes; one where there is but one class.
#[must_use]
pub const fn class_digits(classes: usize) -> usize {
    match classes {
        0..=2 => 1,
        _ => (classes - 1).ilog2() as usize + 1,
    }
}

/// The class with these binary digits, from the least significant; of each digit the lowest bit counts.
///
/// Digits beyond those of any class are left out.
#[must_use]
pub fn class_of_digits(digits: &[u64]) -> usize {
    let digits = digits.iter().take(usize::BITS as usize).enumerate();
    digits.fold(0, |class, (place, digit)| class | ((digit & 1) as usize) << place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_suffice_for_every_class() {
        for classes in 1..300_usize {
            let digits = class_digits(classes);
            assert!(classes <= 1 << digits && (digits == 1 || classes > 1 << (digits - 1)));
            let last = classes - 1;
            let split: Vec<u64> = (0..digits).map(|place| (last >> place & 1) as u64).collect();
            assert_eq!(class_of_digits(&split), last);
        }
    }
}
