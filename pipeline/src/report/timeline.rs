//! Recordings over time: their spectrogram, what was annotated, and below it what each probe answers, with what is wrong.

use std::fmt::Write as _;

use omar_stages::ops::probe::Spectrogram;
use omar_stages::score::chord::{Chord, majmin_class};
use serde_json::Value;

use super::crops::heat;
use super::png;
use crate::svg::{data_uri, escape, text};

/// Size of the picture, and where the time axis begins.
const WIDTH: f64 = 1120.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 12.0;
/// Heights: of the spectrogram, of a row, of the strip below it that says what is wrong, of what is between.
const SIGNAL: f64 = 116.0;
const BAR: f64 = 22.0;
const STRIP: f64 = 4.0;
const GAP: f64 = 9.0;
/// Width of a letter, and letters of the longest name beside a row.
const LETTER: f64 = 5.8;
const NAME: usize = 17;
/// Seconds that are shown of beats, which would be too close together otherwise.
const BEATS: f64 = 60.0;
/// What is right and what is not.
const GOOD: &str = "#0d9488";
const BAD: &str = "#f43f5e";

/// A recording of a probe's `details.json`, with the name of the representation.
pub(super) type Answered<'a> = (&'a str, &'a Value);

/// Says what the marks mean.
pub(super) fn legend(task: &str) -> String {
    let marks: &[(&str, &str)] = match task {
        "beats" => &[
            ("#2563eb", "beat"),
            ("#ea580c", "first of a bar"),
            (BAD, "answered where there is none, or missed (dots)"),
        ],
        _ => &[(GOOD, "right"), (BAD, "wrong")],
    };
    let key = |(colour, words): &(&str, &str)| format!("<span><i style=\"background:{colour}\"></i>{words}</span>");
    format!("<div class=\"key\">{}</div>", marks.iter().map(key).collect::<String>())
}

/// What is the same for all rows.
struct Canvas {
    svg: String,
    end: f64,
    beats: bool,
    chords: bool,
    kinds: Vec<String>,
}

/// Draws a recording: `{end_s, annotated: [{start_s, end_s, label, right}], answered: [...], wrong: [[from, to]]}` of one
/// probe after the other; they share what is annotated.
pub(super) fn draw(task: &str, answers: &[Answered<'_>], spectrogram: Option<&Spectrogram>) -> String {
    let Some((_, first)) = answers.first() else { return String::new() };
    let whole = first["end_s"].as_f64().unwrap_or(0.0).max(1.0);
    let beats = task == "beats";
    let signal = if spectrogram.is_some() { SIGNAL + GAP } else { 0.0 };
    let height = 8.0 + signal + BAR + GAP + answers.len() as f64 * (BAR + STRIP + GAP) + 22.0;
    let end = if beats { whole.min(BEATS) } else { whole };
    let mut canvas = Canvas { svg: String::new(), end, beats, chords: task == "chords", kinds: Vec::new() };
    let _infallible = writeln!(
        canvas.svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" font-size=\"10.5\" \
         font-family=\"Inter, Helvetica, Arial, sans-serif\">"
    );
    let bottom = height - 22.0;
    canvas.axis(8.0 + signal, bottom);
    if let Some(spectrogram) = spectrogram {
        canvas.signal(spectrogram, &first["annotated"]);
    }
    let mut y = 8.0 + signal;
    canvas.name(y, "annotated");
    canvas.row(&first["annotated"], y, false);
    y += BAR + GAP;
    for (name, of) in answers {
        canvas.name(y, name);
        canvas.row(&of["answered"], y, true);
        canvas.mistakes(of, y);
        y += BAR + STRIP + GAP;
    }
    canvas.svg.push_str("</svg>\n");
    canvas.svg
}

impl Canvas {
    fn x(&self, time: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (time / self.end).clamp(0.0, 1.0)
    }

    fn name(&mut self, y: f64, name: &str) {
        let short = match name.char_indices().nth(NAME) {
            Some((cut, _)) => format!("{}…", &name[..cut]),
            None => name.to_owned(),
        };
        let soft = "fill=\"#64748b\" class=\"soft\" text-anchor=\"end\"";
        text(&mut self.svg, (LEFT - 10.0, y + BAR / 2.0 + 3.5), soft, &short);
    }

    /// The spectrogram, with what is annotated as hair lines on it.
    fn signal(&mut self, spectrogram: &Spectrogram, annotated: &Value) {
        let Spectrogram { view, columns, end_s, levels, .. } = spectrogram;
        // Of beats only a part is shown; the picture may end a little before what was heard.
        let visible = ((self.end / end_s * *columns as f64).round() as usize).clamp(1, *columns);
        let rows = levels.chunks_exact(*columns).flat_map(|row| row[..visible].iter().copied());
        let picture = png::encode(visible, &rows.collect::<Vec<u8>>(), &heat());
        let width = self.x(visible as f64 / *columns as f64 * end_s) - LEFT;
        let soft = "fill=\"#64748b\" class=\"soft\" text-anchor=\"end\"";
        text(&mut self.svg, (LEFT - 10.0, 8.0 + SIGNAL / 2.0 + 3.5), soft, view);
        let _infallible = writeln!(
            self.svg,
            "<image x=\"{LEFT}\" y=\"8\" width=\"{width:.1}\" height=\"{SIGNAL}\" preserveAspectRatio=\"none\" href=\"{}\"/>",
            data_uri("image/png", &picture)
        );
        let (mut strong, mut faint) = (String::new(), String::new());
        for span in annotated.as_array().into_iter().flatten() {
            let Some(start) = span["start_s"].as_f64().filter(|start| *start > 0.0 && *start < self.end) else {
                continue;
            };
            let line = if span["label"] == "1" || !self.beats { &mut strong } else { &mut faint };
            let _infallible = write!(line, "M{:.1} 8v{SIGNAL}", self.x(start));
        }
        for (path, opacity) in [(strong, 0.7), (faint, 0.35)].into_iter().filter(|line| !line.0.is_empty()) {
            let _infallible =
                writeln!(self.svg, "<path d=\"{path}\" stroke=\"#fff\" stroke-width=\"0.8\" opacity=\"{opacity}\"/>");
        }
    }

    /// Intervals as bars, instants as strokes.
    fn row(&mut self, spans: &Value, y: f64, answers: bool) {
        for span in spans.as_array().into_iter().flatten() {
            let (Some(start), label) = (span["start_s"].as_f64(), span["label"].as_str().unwrap_or_default()) else {
                continue;
            };
            match span["end_s"].as_f64() {
                _ if start > self.end => {}
                Some(stop) => self.bar((start, stop), y, label),
                None => self.stroke(start, y, label, answers && span["right"] == false),
            }
        }
    }

    fn bar(&mut self, (start, stop): (f64, f64), y: f64, label: &str) {
        let (from, width) = (self.x(start), self.x(stop) - self.x(start));
        let colour = self.colour(label);
        let _infallible = writeln!(
            self.svg,
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\">\
             <title>{}, {start:.2} to {stop:.2} s</title></rect>",
            (width - 0.7).max(0.5),
            escape(label)
        );
        let words = if self.chords { short(label) } else { label.to_owned() };
        if width > LETTER * words.chars().count() as f64 + 7.0 {
            text(&mut self.svg, (from + 4.0, y + BAR / 2.0 + 3.6), "fill=\"#0f172a\"", &words);
        }
    }

    /// An instant; the first of a bar is taller.
    fn stroke(&mut self, time: f64, y: f64, label: &str, wrong: bool) {
        let (top, colour, width) = if label == "1" { (0.0, "#ea580c", 2.0) } else { (6.0, "#2563eb", 1.5) };
        let class = if wrong || label == "1" { "" } else { " class=\"s0\"" };
        let colour = if wrong { BAD } else { colour };
        let x = self.x(time);
        let _infallible = writeln!(
            self.svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"{class} stroke-width=\"{width}\">\
             <title>{time:.2} s</title></line>",
            y + top,
            y + BAR
        );
    }

    /// Below a row of answers: where they are wrong; dots for instants that are missing.
    fn mistakes(&mut self, of: &Value, y: f64) {
        if self.beats {
            let missed = of["annotated"].as_array().into_iter().flatten().filter(|span| span["right"] == false);
            for time in missed.filter_map(|span| span["start_s"].as_f64()).filter(|time| *time <= self.end) {
                let (x, y) = (self.x(time), y + BAR + 3.0);
                let _infallible = writeln!(self.svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{BAD}\"/>");
            }
            return;
        }
        let y = y + BAR + 1.0;
        let mut strip = |from: f64, to: f64, colour: &str, opacity: f64| {
            let _infallible = writeln!(
                self.svg,
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{STRIP}\" fill=\"{colour}\" \
                 opacity=\"{opacity}\"/>",
                (to - from).max(0.5)
            );
        };
        let place = |time: f64| LEFT + (WIDTH - LEFT - RIGHT) * (time / self.end).clamp(0.0, 1.0);
        strip(LEFT, place(self.end), GOOD, 0.55);
        for span in of["wrong"].as_array().into_iter().flatten() {
            if let (Some(from), Some(to)) = (span[0].as_f64(), span[1].as_f64()) {
                strip(place(from), place(to), BAD, 1.0);
            }
        }
    }

    /// Chords by the circle of fifths, minor ones deeper; other labels as they come.
    fn colour(&mut self, label: &str) -> String {
        if self.chords {
            let class = Chord::parse(label).ok().and_then(|chord| majmin_class(&chord));
            return match class {
                Some(class @ 0..12) => format!("hsl({} 74% 68%)", class * 7 % 12 * 30),
                Some(class @ 12..24) => format!("hsl({} 48% 58%)", (class - 12) * 7 % 12 * 30),
                Some(_) => "#cbd5e1".to_owned(),
                None => "#94a3b8".to_owned(),
            };
        }
        let kind = self.kinds.iter().position(|kind| kind == label).unwrap_or_else(|| {
            self.kinds.push(label.to_owned());
            self.kinds.len() - 1
        });
        // Golden angle: neighbours in the list are far apart on the wheel.
        format!("hsl({:.0} 62% 66%)", (205.0 + kind as f64 * 137.508) % 360.0)
    }

    fn axis(&mut self, top: f64, bottom: f64) {
        let steps = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0];
        let step = steps.into_iter().find(|step| self.end / step <= 14.0).unwrap_or(300.0);
        let ticks = (self.end / step + 1e-9) as usize;
        for tick in 0..=ticks {
            let time = tick as f64 * step;
            let x = self.x(time);
            let _infallible = writeln!(
                self.svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\" stroke=\"#e2e8f0\" class=\"grid\" \
                 stroke-width=\"0.8\"/>"
            );
            let anchor = if x > WIDTH - 24.0 { "end" } else { "middle" };
            let soft = format!("fill=\"#64748b\" class=\"soft\" text-anchor=\"{anchor}\"");
            text(&mut self.svg, (x, bottom + 13.0), &soft, &format!("{time} s"));
        }
    }
}

/// `A:min` as `Am`, `C:maj` as `C`; others as they are, without the colon.
fn short(label: &str) -> String {
    match label.split_once(':') {
        Some((root, "maj")) => root.to_owned(),
        Some((root, "min")) => format!("{root}m"),
        Some((root, rest)) => format!("{root}{}", rest.replacen("min", "m", 1)),
        None => label.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spectrogram() -> Spectrogram {
        Spectrogram { view: "cqt".to_owned(), bins: 3, columns: 40, end_s: 20.0, levels: (0..120).collect() }
    }

    #[test]
    fn chords_stand_below_their_spectrogram_with_what_is_wrong() {
        let of = json!({
            "recording": "a.wav", "end_s": 20.0,
            "annotated": [{"start_s": 0.0, "end_s": 12.0, "label": "C:maj7"}, {"start_s": 12.0, "end_s": 20.0, "label": "<X>"}],
            "answered": [{"start_s": 0.0, "end_s": 20.0, "label": "A:min"}],
            "wrong": [[2.0, 4.0]],
        });
        let svg = draw("chords", &[("trained", &of), ("spectrograms of a long name", &of)], Some(&spectrogram()));
        // Two annotated and two answered bars; for each of two answers a strip, and what is wrong in it.
        assert_eq!((svg.matches("<image ").count(), svg.matches("<rect ").count()), (1, 8), "{svg}");
        assert_eq!(svg.matches("#f43f5e").count(), 2);
        assert!(svg.contains(">Cmaj7<") && svg.contains(">Am<") && svg.contains("&lt;X&gt;"), "{svg}");
        assert!(svg.contains(">spectrograms of a…<") && svg.contains(">20 s<") && !svg.contains("NaN"), "{svg}");
        assert_eq!(draw("chords", &[], None), "");
    }

    #[test]
    fn beats_that_are_wrong_are_marked_and_a_minute_is_shown() {
        let of = json!({
            "recording": "a.wav", "end_s": 90.0,
            "annotated": [
                {"start_s": 1.0, "end_s": null, "label": "1", "right": true},
                {"start_s": 2.0, "end_s": null, "label": "2", "right": false},
                {"start_s": 80.0, "end_s": null, "label": "3", "right": false}
            ],
            "answered": [
                {"start_s": 1.0, "end_s": null, "label": "1", "right": true},
                {"start_s": 3.5, "end_s": null, "label": "2", "right": false}
            ],
            "wrong": [],
        });
        let svg = draw("beats", &[("trained", &of)], None);
        assert_eq!((svg.matches("<circle ").count(), svg.matches("<title>").count()), (1, 4), "{svg}");
        // The one that is missed, and the one that is too many.
        assert_eq!(svg.matches("#f43f5e").count(), 2, "{svg}");
        assert!(svg.contains(">60 s<") && !svg.contains(">90 s<"), "{svg}");
    }
}
