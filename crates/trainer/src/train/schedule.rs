//! The learning rate over a stage.

use super::config::ScheduleConfig;
use std::f64::consts::PI;

/// Learning rate at `step` (from 0) of a stage of `steps_per_epoch` steps an epoch: linear up to the
/// highest, then half a cosine to zero.
pub(super) fn learning_rate(schedule: &ScheduleConfig, steps_per_epoch: usize, step: usize) -> f64 {
    let total = (schedule.epochs * steps_per_epoch) as f64;
    let warmup = schedule.warmup_epochs * steps_per_epoch as f64;
    let step = step as f64;
    if step + 1.0 <= warmup {
        return schedule.learning_rate * (step + 1.0) / warmup;
    }
    let progress = ((step - warmup) / (total - warmup).max(1.0)).clamp(0.0, 1.0);
    schedule.learning_rate * 0.5 * (1.0 + (PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_linearly_and_falls_to_zero() {
        let schedule = ScheduleConfig { epochs: 10, learning_rate: 0.4, warmup_epochs: 2.0 };
        let rates: Vec<f64> = (0..100).map(|step| learning_rate(&schedule, 10, step)).collect();
        assert!((rates[0] - 0.02).abs() < 1e-12 && (rates[9] - 0.2).abs() < 1e-12);
        assert!((rates[19] - 0.4).abs() < 1e-12 && (rates[20] - 0.4).abs() < 1e-12);
        assert!((rates[60] - 0.2).abs() < 1e-12);
        assert!(rates[20..].windows(2).all(|pair| pair[1] < pair[0]) && rates[99] < 0.001);
    }

    #[test]
    fn a_stage_that_is_all_warm_up_is_well_defined() {
        let schedule = ScheduleConfig { epochs: 1, learning_rate: 0.4, warmup_epochs: 1.0 };
        assert!((0..3).all(|step| learning_rate(&schedule, 2, step).is_finite()));
    }
}
