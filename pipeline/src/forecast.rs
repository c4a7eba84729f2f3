//! What a training will take, before it starts: from the estimates of the stages, how fast this machine multiplies, and
//! what makers publish of theirs.

use std::fmt::Write as _;
use std::time::Duration;

use omar_schemas::units::Bytes;
use omar_stages::Estimate;
use omar_stages::model::gemm_rate;
use serde::Serialize;

use crate::plan::Plan;
use crate::progress::hours;

/// How long this machine is measured.
const PROBE: Duration = Duration::from_millis(300);
/// Share of the matrix product's speed that a training step reaches on a CPU: measured with models of width 192 to 512
/// on two cores of a Xeon. The rest goes to normalisation, activations, masks, the optimiser.
pub const CPU_UTILISATION: f64 = 0.5;
/// Share of the published peak that a step is assumed to reach on a GPU: what well-made bf16 training commonly does.
pub const GPU_UTILISATION: f64 = 0.35;
/// Dense bf16 with f32 accumulation, without sparsity, per second, as published (NVIDIA data sheets: H100 SXM, A100, L40S,
/// Ada architecture whitepaper, L4), and GB of memory.
const GPUS: [(&str, f64, f64); 5] = [
    ("NVIDIA H100 SXM", 989e12, 80.0),
    ("NVIDIA A100", 312e12, 80.0),
    ("NVIDIA L40S", 362e12, 48.0),
    ("NVIDIA RTX 4090", 165e12, 24.0),
    ("NVIDIA L4", 121e12, 24.0),
];

/// Operations of a step below which GPUs are not spoken of.
const GPU_LEAST: f64 = 1e11;

/// The training of a node.
#[derive(Debug, Clone, Serialize)]
pub struct Forecast {
    /// Node.
    pub node: String,
    /// Its size.
    pub estimate: Estimate,
    /// How long it would take where.
    pub machines: Vec<MachineTime>,
}

/// How long a training takes on a machine: an estimate.
#[derive(Debug, Clone, Serialize)]
pub struct MachineTime {
    /// Name.
    pub machine: String,
    /// Floating-point operations per second at its best.
    pub peak_flop_per_s: f64,
    /// Whether the peak was measured here, or is a published one.
    pub measured: bool,
    /// Share of it that is assumed to be reached.
    pub utilisation: f64,
    /// Estimated.
    pub steps_per_s: f64,
    /// Estimated, for all steps.
    pub hours: f64,
    /// Whether the estimated memory is more than it has; `None` for this machine.
    pub fits: Option<bool>,
}

/// Forecasts for all nodes that train. Measures this machine, if there is such a node.
pub fn forecasts(plan: &Plan) -> Vec<Forecast> {
    let estimates: Vec<(String, Estimate)> =
        plan.nodes.iter().filter_map(|node| Some((node.id.clone(), node.stage.estimate()?))).collect();
    if estimates.is_empty() {
        return Vec::new();
    }
    // Without a speed there is no time for this machine, no more.
    let here = gemm_rate(PROBE).ok();
    estimates.into_iter().map(|(node, estimate)| Forecast::new(node, estimate, here)).collect()
}

impl Forecast {
    /// `here` is the measured speed of this machine.
    pub fn new(node: String, estimate: Estimate, here: Option<f64>) -> Self {
        let here =
            here.map(|rate| MachineTime::new("this machine, CPU", (rate, true), CPU_UTILISATION, None, &estimate));
        let gpu = |(name, peak, memory): (&str, f64, f64)| {
            let fits = estimate.memory.total() as f64 <= memory * 1e9;
            MachineTime::new(name, (peak, false), GPU_UTILISATION, Some(fits), &estimate)
        };
        // A small model leaves a large GPU idle: nothing can be said from its peak.
        let gpus = GPUS.into_iter().filter(|_| estimate.flop_per_step >= GPU_LEAST).map(gpu);
        let machines = here.into_iter().chain(gpus).collect();
        Self { node, estimate, machines }
    }

    /// A paragraph.
    pub fn text(&self) -> String {
        let e = &self.estimate;
        let memory = &e.memory;
        let [weights, gradients, moments, activations] =
            [memory.weights, memory.gradients, memory.moments, memory.activations].map(Bytes);
        let mut text = format!("{}: {} steps of {} crops\n", self.node, e.steps, e.minibatch);
        let mut line = |name: &str, words: String| {
            let _infallible = writeln!(text, "  {name:<7} {words}");
        };
        line(
            "model",
            format!("{} parameters, {} of them in the head", si(e.parameters as f64), si(e.head_parameters as f64)),
        );
        let (positions, rate, crop) = (e.positions, e.rate_hz, hours(e.crop_s));
        line(
            "input",
            format!(
                "{positions} positions in a crop of {crop}, {rate} a second; {} a step",
                hours(e.audio_s_per_step())
            ),
        );
        line("step", format!("{}FLOP forward and backward; {}FLOP in all", si(e.flop_per_step), si(e.flop())));
        let total = Bytes(memory.total());
        line(
            "memory",
            format!(
                "about {total}: weights {weights}, gradients {gradients}, moments {moments}, activations {activations}"
            ),
        );
        text += "  time    estimated, without data and evaluation:\n";
        for machine in &self.machines {
            let _infallible = writeln!(text, "    {}", machine.line());
        }
        text
    }
}

impl MachineTime {
    fn new(
        machine: &str,
        (peak, measured): (f64, bool),
        utilisation: f64,
        fits: Option<bool>,
        estimate: &Estimate,
    ) -> Self {
        let steps_per_s = peak * utilisation / estimate.flop_per_step;
        let hours = estimate.steps as f64 / steps_per_s / 3600.0;
        Self { machine: machine.to_owned(), peak_flop_per_s: peak, measured, utilisation, steps_per_s, hours, fits }
    }

    fn line(&self) -> String {
        let basis = if self.measured { "measured f32" } else { "published bf16" };
        let peak = format!("{:.0} % of {}FLOP/s {basis}", 100.0 * self.utilisation, si(self.peak_flop_per_s));
        let fits = if self.fits == Some(false) { "; the minibatch does not fit as a whole" } else { "" };
        format!(
            "{:<18} {:>7} steps/s {:>11}   ({peak}{fits})",
            self.machine,
            figures(self.steps_per_s),
            long(self.hours)
        )
    }
}

/// Three figures: `0.0123`, `4.56`, `789`.
fn figures(value: f64) -> String {
    let digits = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.digits$}")
}

/// `35 min`, `12 h`, `40 days`.
fn long(hours: f64) -> String {
    match hours {
        h if h < 1.0 => format!("{:.0} min", h * 60.0),
        h if h < 48.0 => format!("{h:.1} h"),
        h => format!("{:.0} days", h / 24.0),
    }
}

/// With a letter for powers of a thousand and a space before it: `76.9 M`.
pub(crate) fn si(value: f64) -> String {
    let units = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| value >= 0.9995 * unit) {
        Some((unit, name)) => {
            let scaled = value / unit;
            let digits = if scaled < 99.95 { 1 } else { 0 };
            format!("{scaled:.digits$} {name}")
        }
        None => format!("{value:.0} "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omar_stages::Memory;

    fn estimate() -> Estimate {
        let memory = Memory { weights: 1 << 20, gradients: 1 << 20, moments: 2 << 20, activations: 60 << 30 };
        Estimate {
            steps: 7200,
            minibatch: 32,
            positions: 468,
            rate_hz: 15.625,
            crop_s: 30.0,
            parameters: 76_900_000,
            head_parameters: 4_200_000,
            flop_per_step: 1e11,
            memory,
        }
    }

    #[test]
    fn a_forecast_says_what_it_assumes() {
        let forecast = Forecast::new("model".to_owned(), estimate(), Some(1e11));
        let here = &forecast.machines[0];
        assert!((here.steps_per_s - CPU_UTILISATION).abs() < 1e-9 && (here.hours - 2.0 / CPU_UTILISATION).abs() < 1e-9);
        let text = forecast.text();
        for words in [
            "model: 7200 steps of 32 crops",
            "76.9 M parameters, 4.2 M of them in the head",
            "468 positions in a crop of 30 s, 15.625 a second; 16.0 min a step",
            "100 GFLOP forward and backward; 720 TFLOP in all",
            "activations 60GiB",
            "% of 100 GFLOP/s measured f32)",
            "35 % of 165 TFLOP/s published bf16; the minibatch does not fit as a whole)",
        ] {
            assert!(text.contains(words), "`{words}` is not in\n{text}");
        }
        assert_eq!(Forecast::new("m".to_owned(), estimate(), None).machines.len(), GPUS.len());
    }

    #[test]
    fn numbers_have_three_figures() {
        assert_eq!([0.01234, 4.5678, 789.4].map(figures), ["0.0123", "4.57", "789"]);
        assert_eq!([0.5, 12.34, 100.0].map(long), ["30 min", "12.3 h", "4 days"]);
        assert_eq!([12.0, 1234.0, 9.996e5, 7.69e7, 2.5e16].map(si), ["12 ", "1.2 k", "1.0 M", "76.9 M", "25.0 P"]);
    }
}
