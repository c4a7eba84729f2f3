//! The learning rate over the steps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the cosine and the line end (released configuration of OMAR-RQ).
const ETA_MIN: f64 = 1e-7;

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine from the peak to 1e-7 at the last step.
    Cosine,
    /// A line from the peak to 1e-7 at the last step.
    Linear,
    /// The peak.
    Constant,
}

/// Linear warm-up to the peak, then a decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Largest learning rate.
    pub peak: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
    /// What follows the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let span = self.total.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / span as f64).min(1.0);
        let remaining = match self.decay {
            Decay::Cosine => (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0,
            Decay::Linear => 1.0 - progress,
            Decay::Constant => return self.peak,
        };
        ETA_MIN + (self.peak - ETA_MIN) * remaining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_schedule_warms_up_peaks_and_ends_at_its_minimum() {
        let schedule = Schedule { peak: 1e-4, warmup: 30_000, total: 400_000, decay: Decay::Cosine };
        assert!((schedule.at(0) - 1e-4 / 30_000.0).abs() < 1e-18);
        assert!((schedule.at(29_999) - 1e-4).abs() < 1e-18);
        assert!((schedule.at(30_000) - 1e-4).abs() < 1e-18);
        // Half way down: the mean of peak and minimum.
        assert!((schedule.at(215_000) - (1e-4 + 1e-7) / 2.0).abs() < 1e-12);
        assert!((schedule.at(400_000) - 1e-7).abs() < 1e-15 && (schedule.at(500_000) - 1e-7).abs() < 1e-15);
    }

    #[test]
    fn other_decays_start_at_the_peak() {
        for (decay, half) in [(Decay::Linear, (1.0 + 1e-7) / 2.0), (Decay::Constant, 1.0)] {
            let schedule = Schedule { peak: 1.0, warmup: 0, total: 10, decay };
            assert!((schedule.at(0) - 1.0).abs() < 1e-12);
            assert!((schedule.at(5) - half).abs() < 1e-12);
        }
    }
}
