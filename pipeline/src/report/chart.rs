//! Curves over steps as SVG. Colours are attributes, so that a picture needs nothing else, and classes, so that the page
//! can change them in the dark.

use std::fmt::Write as _;

use crate::svg::{escape, text};
use crate::training::live::percent;

/// Colours of curves, told apart also by people who see few of them; classes `s0`, `s1`, ...
pub(super) const COLOURS: [&str; 8] =
    ["#2563eb", "#ea580c", "#0d9488", "#7c3aed", "#b45309", "#db2777", "#4d7c0f", "#475569"];
/// Where the plot is: left, top, and what is right of and below it.
const LEFT: f64 = 56.0;
const TOP: f64 = 58.0;
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 34.0;
/// Points of a curve at most.
const POINTS: usize = 480;
/// Share of the curve that a point of a smoothed one stands for.
const SMOOTHING: f64 = 1.0 / 40.0;

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// A mean that follows the values, which are pale behind it.
    Smooth,
    /// From point to point.
    Line,
    /// The same with a dot at every point, where there are few.
    Dots,
    /// A constant to compare with: from point to point, dashed.
    Baseline,
}

/// Values over steps.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub(super) name: String,
    /// Index into [`COLOURS`].
    pub(super) colour: usize,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) look: Look,
}

/// How values are written and spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// As they are.
    Linear,
    /// As they are, from zero.
    FromZero,
    /// Shares, as percent from zero.
    Percent,
    /// By their logarithm.
    Logarithmic,
}

/// A chart.
#[derive(Debug, Clone)]
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) curves: Vec<Curve>,
    pub(super) scale: Scale,
    /// What the points follow one another by.
    pub(super) along: &'a str,
    /// Steps at which the run went on after a stop.
    pub(super) resumes: &'a [u64],
}

/// Where values are in the plot.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
    scale: Scale,
    size: (f64, f64),
}

impl Axes {
    fn of(chart: &Chart<'_>, size: (f64, f64)) -> Option<Self> {
        let all = || chart.curves.iter().flat_map(|curve| curve.points.iter().copied()).filter(|p| p.1.is_finite());
        let steps = all().map(|point| point.0);
        let x = (steps.clone().fold(f64::MAX, f64::min).min(1.0), steps.fold(f64::MIN, f64::max));
        let positive = chart.scale == Scale::Logarithmic;
        // Outliers of the first steps must not flatten the rest.
        let mut values: Vec<f64> = all().map(|point| point.1).filter(|value| !positive || *value > 0.0).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let y = match chart.scale {
            Scale::Percent => (0.0, high.max(1e-3)),
            Scale::FromZero => (0.0, if high > 0.0 { high } else { 1.0 }),
            Scale::Linear if high > low => (low, high),
            Scale::Linear => (low - 0.5, high + 0.5),
            Scale::Logarithmic => (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0)),
        };
        let room = if chart.scale == Scale::Logarithmic { 0.0 } else { 0.04 * (y.1 - y.0) };
        let floor = if matches!(chart.scale, Scale::Percent | Scale::FromZero) { y.0 } else { y.0 - room };
        Some(Self { x: (x.0, x.1.max(x.0 + 1.0)), y: (floor, y.1 + room), scale: chart.scale, size })
    }

    fn width(&self) -> f64 {
        self.size.0 - LEFT - RIGHT
    }

    fn height(&self) -> f64 {
        self.size.1 - TOP - BOTTOM
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let y = if self.scale == Scale::Logarithmic { y.max(1e-300).log10() } else { y };
        let share = |value: f64, (low, high): (f64, f64)| ((value - low) / (high - low)).clamp(0.0, 1.0);
        (LEFT + self.width() * share(x, self.x), TOP + self.height() * (1.0 - share(y, self.y)))
    }

    /// Values with a line and a name.
    fn y_ticks(&self) -> Vec<(f64, String)> {
        if self.scale == Scale::Logarithmic {
            let powers = self.y.0 as i32..=self.y.1 as i32;
            let every = (powers.clone().count() / 5).max(1);
            return powers.step_by(every).map(|power| (10f64.powi(power), format!("1e{power}"))).collect();
        }
        let step = nice((self.y.1 - self.y.0) / 4.0);
        let name = |value: f64| match self.scale {
            Scale::Percent => format!("{} %", decimals(100.0 * value, 100.0 * step)),
            _ => decimals(value, step),
        };
        multiples(self.y, step).map(|value| (value, name(value))).collect()
    }

    fn x_ticks(&self) -> Vec<(f64, String)> {
        let step = nice((self.x.1 - self.x.0) / 5.0).max(1.0);
        multiples(self.x, step).map(|value| (value, short(value))).collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least as much.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0].map(|factor| factor * power).into_iter().find(|nice| *nice >= step * 0.999).unwrap_or(10.0 * power)
}

fn multiples((low, high): (f64, f64), step: f64) -> impl Iterator<Item = f64> {
    let first = (low / step - 1e-9).ceil() as i64;
    (first..first + 50).map(move |i| i as f64 * step).take_while(move |value| *value <= high + 1e-9 * step)
}

/// With as many decimals as a step needs.
fn decimals(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    if digits > 4 { format!("{value:.0e}") } else { format!("{value:.digits$}") }
}

/// A number of steps: `500`, `20k`, `1.5M`.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", (v / 1e4).round() / 100.0),
        v if v >= 1e4 => format!("{}k", (v / 1e2).round() / 10.0),
        v => format!("{v:.0}"),
    }
}

/// Draws a chart; nothing where there is nothing to draw.
pub(super) fn draw(chart: &Chart<'_>, size: (f64, f64)) -> Option<String> {
    let axes = Axes::of(chart, size)?;
    let (width, height) = size;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         class=\"chart\" role=\"img\" font-family=\"Inter, Helvetica, Arial, sans-serif\" font-size=\"11\">\n\
         <title>{}</title>\n",
        escape(chart.title)
    );
    text(&mut svg, (LEFT, 20.0), "font-size=\"14\" font-weight=\"600\" fill=\"#0f172a\" class=\"strong\"", chart.title);
    legend(&mut svg, chart);
    grid(&mut svg, &axes, chart.along);
    for &step in chart.resumes.iter().filter(|step| **step > 0) {
        let (x, _) = axes.at((step as f64, axes.y.0));
        let (top, bottom) = (TOP, TOP + axes.height());
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#94a3b8\" stroke-dasharray=\"1 3\">\
             <title>resumed after step {step}</title></line>"
        );
    }
    for curve in &chart.curves {
        draw_curve(&mut svg, &axes, curve);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// Names of the curves with their last values.
fn legend(svg: &mut String, chart: &Chart<'_>) {
    let mut x = LEFT;
    for curve in &chart.curves {
        let last = smoothed(curve).last().map_or(f64::NAN, |point| point.1);
        let value = match chart.scale {
            Scale::Percent => percent(last),
            Scale::Logarithmic => format!("{last:.2e}"),
            _ if last.abs() >= 100.0 => format!("{last:.0}"),
            _ if last != 0.0 && last.abs() < 0.01 => format!("{last:.1e}"),
            _ => format!("{last:.3}"),
        };
        let words = format!("{} {value}", curve.name);
        let dash = if curve.look == Look::Baseline { " stroke-dasharray=\"4 3\"" } else { "" };
        let colour = COLOURS[curve.colour % COLOURS.len()];
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"38\" x2=\"{:.1}\" y2=\"38\" stroke=\"{colour}\" class=\"s{}\" stroke-width=\"2\"{dash}/>",
            x + 16.0,
            curve.colour % COLOURS.len()
        );
        text(svg, (x + 21.0, 42.0), "fill=\"#475569\" class=\"soft\"", &words);
        x += 38.0 + 5.7 * words.chars().count() as f64;
    }
}

fn grid(svg: &mut String, axes: &Axes, along: &str) {
    let (right, bottom) = (LEFT + axes.width(), TOP + axes.height());
    let soft = "fill=\"#64748b\" class=\"soft\" font-size=\"10.5\"";
    for (value, name) in axes.y_ticks() {
        let (_, y) = axes.at((axes.x.0, value));
        let _infallible = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\" stroke=\"#e2e8f0\" class=\"grid\"/>"
        );
        text(svg, (LEFT - 8.0, y + 3.5), &format!("{soft} text-anchor=\"end\""), &name);
    }
    for (value, name) in axes.x_ticks() {
        let (x, _) = axes.at((value, axes.y.0));
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{bottom:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#cbd5e1\" class=\"grid\"/>",
            bottom + 4.0
        );
        text(svg, (x, bottom + 17.0), &format!("{soft} text-anchor=\"middle\""), &name);
    }
    text(svg, (right, bottom + 30.0), &format!("{soft} text-anchor=\"end\""), along);
}

fn draw_curve(svg: &mut String, axes: &Axes, curve: &Curve) {
    let colour = curve.colour % COLOURS.len();
    let mut line = |points: &[(f64, f64)], width: f64, more: &str| {
        let mut path = String::new();
        for point in points.iter().filter(|point| point.1.is_finite()) {
            let (x, y) = axes.at(*point);
            let _infallible = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
        }
        let _infallible = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" class=\"s{colour}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\" stroke-linecap=\"round\"{more}/>",
            COLOURS[colour]
        );
    };
    match curve.look {
        Look::Smooth => {
            line(&thinned(&curve.points, 2 * POINTS), 1.0, " opacity=\"0.22\"");
            line(&smoothed(curve), 1.8, "");
        }
        Look::Line | Look::Dots => line(&smoothed(curve), 1.8, ""),
        Look::Baseline => line(&smoothed(curve), 1.3, " stroke-dasharray=\"4 3\" opacity=\"0.85\""),
    }
    if curve.look == Look::Dots && curve.points.len() <= 60 {
        for point in &curve.points {
            let (x, y) = axes.at(*point);
            let _infallible = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\" fill=\"{}\" class=\"f{colour}\"/>",
                COLOURS[colour]
            );
        }
    }
}

/// The curve as it is drawn.
fn smoothed(curve: &Curve) -> Vec<(f64, f64)> {
    if curve.look != Look::Smooth {
        return thinned(&curve.points, POINTS);
    }
    // An exponential mean, without the pull towards zero of its beginning.
    let keep = 1.0 - (1.0 / (SMOOTHING * curve.points.len() as f64)).clamp(0.02, 1.0);
    let (mut mean, mut weight) = (0.0, 0.0);
    let mut points = Vec::with_capacity(curve.points.len());
    for (x, y) in curve.points.iter().filter(|point| point.1.is_finite()) {
        mean = keep * mean + (1.0 - keep) * y;
        weight = keep * weight + (1.0 - keep);
        points.push((*x, mean / weight));
    }
    thinned(&points, POINTS)
}

/// Means of neighbours, so that at most `most` points are left; the last one stays as it is.
fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(most.max(1)).max(1);
    let mean = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n)
    };
    let mut thin: Vec<(f64, f64)> = points.chunks(each).map(mean).collect();
    if each > 1 {
        thin.extend(points.last());
    }
    thin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(look: Look, points: Vec<(f64, f64)>) -> Curve {
        Curve { name: "a <b>".to_owned(), colour: 1, points, look }
    }

    #[test]
    fn curves_stay_in_the_plot_and_are_thinned() {
        let points: Vec<(f64, f64)> =
            (1..5000).map(|i| (f64::from(i), 9.0 / f64::from(i) + f64::from(i % 7))).collect();
        for scale in [Scale::Linear, Scale::FromZero, Scale::Percent, Scale::Logarithmic] {
            let looks = [Look::Smooth, Look::Line, Look::Dots, Look::Baseline];
            let curves = looks.map(|look| curve(look, points.clone())).to_vec();
            let svg =
                draw(&Chart { title: "t & u", curves, scale, along: "steps", resumes: &[0, 100] }, (560.0, 280.0))
                    .expect("drawn");
            assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.contains("a &lt;b&gt;"), "{svg}");
            assert_eq!(svg.matches("resumed after step").count(), 1);
            for path in svg.split("<path d=\"M").skip(1).map(|path| &path[..path.find('"').expect("an end")]) {
                assert!(path.matches('L').count() <= 2 * POINTS + 1);
                for point in path.split('L') {
                    let (x, y) = point.split_once(' ').expect("two coordinates");
                    let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
                    assert!((LEFT - 0.1..=560.0).contains(&x) && (TOP - 0.1..=280.0 - BOTTOM + 0.1).contains(&y));
                }
            }
        }
    }

    #[test]
    fn nothing_gives_no_chart_and_a_point_gives_one() {
        let chart = |points| Chart {
            title: "t",
            curves: vec![curve(Look::Smooth, points)],
            scale: Scale::Linear,
            along: "steps",
            resumes: &[],
        };
        assert!(draw(&chart(vec![]), (300.0, 200.0)).is_none());
        assert!(draw(&chart(vec![(1.0, f64::NAN)]), (300.0, 200.0)).is_none());
        let one = draw(&chart(vec![(1.0, 2.0)]), (300.0, 200.0)).expect("drawn");
        assert!(!one.contains("NaN"), "{one}");
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!([0.013, 0.3, 1.0, 2.4, 70.0].map(nice), [0.02, 0.5, 1.0, 5.0, 100.0]);
        assert_eq!(
            multiples((0.3, 1.1), 0.2).map(|v| decimals(v, 0.2)).collect::<Vec<_>>(),
            ["0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!([500.0, 20_000.0, 1_500_000.0].map(short), ["500", "20k", "1.5M"]);
    }
}
