//! Annotations above answers, over time: intervals as coloured bars, instants as strokes.

use std::fmt::Write as _;

use serde_json::Value;

use crate::svg::{escape, text};

/// Size of the picture.
const WIDTH: f64 = 1120.0;
const LEFT: f64 = 80.0;
const BAR: f64 = 26.0;
/// Bars that are wide enough for their label.
const LABELLED: f64 = 5.6;

/// Draws a recording: `{end_s, annotated: [{start_s, end_s, label}], answered: [...]}`.
pub(super) fn draw(recording: &Value) -> String {
    let end = recording["end_s"].as_f64().unwrap_or(0.0).max(1.0);
    let (step, height) = (WIDTH - LEFT - 8.0, 2.0 * (BAR + 8.0) + 24.0);
    let x = |time: f64| LEFT + step * (time / end).clamp(0.0, 1.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" font-size=\"10\" \
         font-family=\"Inter, Helvetica, Arial, sans-serif\">\n"
    );
    let mut kinds: Vec<&str> = Vec::new();
    for (row, name) in ["annotated", "answered"].into_iter().enumerate() {
        let y = 4.0 + row as f64 * (BAR + 8.0);
        let soft = "fill=\"#64748b\" class=\"soft\" text-anchor=\"end\"";
        text(&mut svg, (LEFT - 8.0, y + BAR / 2.0 + 3.5), soft, name);
        for span in recording[name].as_array().into_iter().flatten() {
            let (Some(start), label) = (span["start_s"].as_f64(), span["label"].as_str().unwrap_or_default()) else {
                continue;
            };
            match span["end_s"].as_f64() {
                Some(stop) => bar(&mut svg, (x(start), x(stop), y), label, &mut kinds),
                None => stroke(&mut svg, x(start), y, label),
            }
        }
    }
    axis(&mut svg, end, height - 18.0, x);
    svg.push_str("</svg>\n");
    svg
}

/// An interval, in a colour of its label.
fn bar<'a>(svg: &mut String, (from, to, y): (f64, f64, f64), label: &'a str, kinds: &mut Vec<&'a str>) {
    let kind = kinds.iter().position(|kind| *kind == label).unwrap_or_else(|| {
        kinds.push(label);
        kinds.len() - 1
    });
    // Golden angle: neighbours in the list are far apart on the wheel.
    let hue = (kind as f64 * 137.508) % 360.0;
    let _infallible = writeln!(
        svg,
        "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"hsl({hue:.0} 62% 62%)\"><title>{}</title></rect>",
        (to - from).max(0.4),
        escape(label)
    );
    if to - from > LABELLED * (label.chars().count() as f64 + 1.0) {
        text(svg, (from + 4.0, y + BAR / 2.0 + 3.5), "fill=\"#0f172a\"", label);
    }
}

/// An instant; the first of a bar is taller.
fn stroke(svg: &mut String, x: f64, y: f64, label: &str) {
    let (top, colour, width) = if label == "1" { (y, "#ea580c", 2.0) } else { (y + 8.0, "#2563eb", 1.2) };
    let _infallible = writeln!(
        svg,
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        y + BAR
    );
}

fn axis(svg: &mut String, end: f64, y: f64, x: impl Fn(f64) -> f64) {
    let step =
        [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0].into_iter().find(|step| end / step <= 12.0).unwrap_or(300.0);
    let mut time = 0.0;
    while time <= end {
        let label = "fill=\"#64748b\" class=\"soft\" text-anchor=\"middle\"";
        text(svg, (x(time), y + 12.0), label, &format!("{time:.0} s"));
        time += step;
    }
}
