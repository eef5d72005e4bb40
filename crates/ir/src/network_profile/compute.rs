//! How fast the two parties compute.

use crate::cost::Work;
use crate::{OtKind, Phase};
use serde::Serialize;
use std::collections::BTreeMap;

/// Rates of computing, all for a CPU second of both parties together, each on one thread.
///
/// The default is what one machine measured (AMD EPYC, Zen 5, two cores, busy): good enough to tell kinds of
/// transfer apart, while `copriv bench profile` measures yours.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComputeRates {
    /// 1-of-2 transfers by the name of their kind.
    pub transfers: BTreeMap<String, f64>,
    /// Vectors that linear steps send, one a transfer.
    pub vectors: f64,
    /// Bytes of those vectors.
    pub payload: f64,
    /// Bytes of the hint that lattice correlations work through.
    pub hint: f64,
    /// Products of polynomials in lattice correlations with a reply.
    pub products: f64,
    /// Multiplications in the ring.
    pub multiplications: f64,
    /// Bytes of online messages.
    pub messages: f64,
}

/// Millions of transfers, in the order of [`OtKind::ALL`].
const TRANSFERS: [f64; OtKind::ALL.len()] = [13.0, 9.0, 8.0, 2.1, 2.7];

impl Default for ComputeRates {
    fn default() -> Self {
        let kinds = OtKind::ALL.into_iter().zip(TRANSFERS);
        Self {
            transfers: kinds.map(|(kind, rate)| (kind.name().into(), rate * 1e6)).collect(),
            vectors: 5e6,
            payload: 3e8,
            hint: 1.2e8,
            products: 1.2e4,
            multiplications: 2e9,
            messages: 8e7,
        }
    }
}

impl ComputeRates {
    /// CPU seconds of both parties together.
    #[must_use]
    pub fn cpu_seconds(&self, work: &Work) -> f64 {
        let transfers = OtKind::ALL.into_iter().zip(work.transfers).map(|(kind, count)| {
            // Every kind has a rate; one that had none would cost nothing.
            let rate = self.transfers.get(kind.name()).copied().unwrap_or(f64::INFINITY);
            count as f64 / rate
        });
        let others = [
            (work.vectors, self.vectors),
            (work.payload, self.payload),
            (work.hint, self.hint),
            (work.products, self.products),
            (work.multiplications, self.multiplications),
            (work.messages, self.messages),
        ];
        transfers.sum::<f64>()
            + others.iter().map(|(count, rate)| *count as f64 / rate).sum::<f64>()
    }

    /// Seconds on the clock, each party on one thread: ahead of time both work at once, online they take turns.
    #[must_use]
    pub fn seconds(&self, work: &Work, phase: Phase) -> f64 {
        let at_once = match phase {
            Phase::Setup | Phase::Offline => 2.0,
            Phase::Online => 1.0,
        };
        self.cpu_seconds(work) / at_once
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_its_own_rate() {
        let rates = ComputeRates::default();
        let mut work = Work { vectors: 5_000_000, ..Work::default() };
        assert!((rates.cpu_seconds(&work) - 1.0).abs() < 1e-9);
        work.transfers[OtKind::Silent as usize] = 5_400_000;
        assert!((rates.cpu_seconds(&work) - 3.0).abs() < 1e-9);
        assert!((rates.seconds(&work, Phase::Offline) - 1.5).abs() < 1e-9);
    }
}
