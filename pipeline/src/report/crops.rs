//! Held-out crops as pictures: what the model hears, what is hidden from it, the tokens, and what it answered.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use omar_stages::storage::{CropName, InputView, PredictedCrop, PredictedCrops};

use super::png;
use crate::svg::{data_uri, escape, text};
use crate::training::live::percent;

/// Size of the pictures, and where the time axis begins.
const WIDTH: f64 = 1120.0;
const LEFT: f64 = 104.0;
const SIGNAL: f64 = 132.0;
/// Heights of a strip of tokens and of the answers below it.
const TOKENS: f64 = 11.0;
const ANSWERS: f64 = 6.0;
const GAP: f64 = 7.0;
/// Streams that are drawn.
const STREAMS: usize = 8;
/// Pixels of a spectrogram along the time, at most.
const COLUMNS: usize = 1000;
/// Hidden spans, answers that are right, and those that are not.
const RIGHT: [u8; 4] = [13, 148, 136, 255];
const WRONG: [u8; 4] = [244, 63, 94, 255];

/// Draws a crop.
pub(super) fn draw(all: &PredictedCrops, crop: &PredictedCrop) -> String {
    let streams = all.streams.len().min(STREAMS);
    let height = 8.0 + SIGNAL + GAP + streams as f64 * (TOKENS + ANSWERS + GAP) + 24.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" class=\"crop\" role=\"img\" \
         font-family=\"Inter, Helvetica, Arial, sans-serif\" font-size=\"11\">\n<title>{}</title>\n",
        escape(&caption(all, crop))
    );
    let (index, view) = shown(&all.views);
    let label = "fill=\"#64748b\" class=\"soft\" text-anchor=\"end\"";
    text(&mut svg, (LEFT - 10.0, 8.0 + SIGNAL / 2.0), label, &view.name);
    let offset: usize = all.views[..index].iter().map(|view| view.bins * view.frames).sum();
    if view.bins > 1 {
        let (columns, pixels) = spectrogram(crop, view, offset, all.patch_dim());
        image(&mut svg, &png::encode(columns, &pixels, &heat()), 8.0, SIGNAL, false);
    } else {
        waveform(&mut svg, crop, view, offset, all.patch_dim());
    }
    veil(&mut svg, &crop.mask);
    let mut y = 8.0 + SIGNAL + GAP;
    for (stream, name) in all.streams.iter().enumerate().take(streams) {
        text(&mut svg, (LEFT - 10.0, y + 11.0), label, name);
        let (tokens, answers) = strips(all, crop, stream);
        image(&mut svg, &png::encode(tokens.len(), &tokens, &wheel()), y, TOKENS, true);
        image(&mut svg, &png::encode(answers.len(), &answers, &[[0; 4], RIGHT, WRONG]), y + TOKENS, ANSWERS, true);
        y += TOKENS + ANSWERS + GAP;
    }
    time_axis(&mut svg, all, y);
    svg.push_str("</svg>\n");
    svg
}

/// `rock/song.ogg from 1:30.0 on: 58 % hidden; of the hidden tokens 21.4 % answered right, 9.5 % by the best constant answer`
pub(super) fn caption(all: &PredictedCrops, crop: &PredictedCrop) -> String {
    let hidden = crop.mask.iter().filter(|&&masked| masked).count();
    let streams = all.streams.len();
    let rows = crop.tokens.chunks_exact(streams.max(1)).zip(crop.predicted.chunks_exact(streams.max(1)));
    let of_row = |(tokens, answers): (&[u32], &[u32])| tokens.iter().zip(answers).filter(|(a, b)| a == b).count();
    let right: usize = rows.zip(&crop.mask).filter(|(_, masked)| **masked).map(|(row, _)| of_row(row)).sum();
    let tokens = (hidden * streams).max(1) as f64;
    let name = match &crop.name {
        Some(CropName { path, start_s }) => format!("{path} from {} on", time(*start_s)),
        None => format!("track {:016x}, crop {}", crop.track, crop.crop),
    };
    format!(
        "{name}: {} hidden; of the hidden tokens {} answered right, {} by the best constant answer",
        percent(hidden as f64 / crop.mask.len().max(1) as f64),
        percent(right as f64 / tokens),
        percent(constant(crop, streams) as f64 / tokens)
    )
}

/// `1:30.0`, minutes and seconds.
fn time(seconds: f64) -> String {
    let tenths = (10.0 * seconds).round() as u64;
    format!("{}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}

/// How many hidden tokens have the most frequent code of their stream among those of the crop.
fn constant(crop: &PredictedCrop, streams: usize) -> usize {
    let top = |stream: usize| {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        let codes = crop.tokens.iter().skip(stream).step_by(streams).zip(&crop.mask);
        codes.filter(|(_, masked)| **masked).for_each(|(code, _)| *counts.entry(*code).or_default() += 1);
        counts.into_values().max().unwrap_or(0)
    };
    (0..streams).map(top).sum()
}

/// The view that people read best: mel, or constant-Q, or the first.
fn shown(views: &[InputView]) -> (usize, &InputView) {
    let find = |name: &str| views.iter().position(|view| view.name == name);
    let index = find("mel").or_else(|| find("cqt")).unwrap_or(0);
    (index, &views[index])
}

/// Pixels of a view, low bins at the bottom: 256 levels between the values that few are below and above.
fn spectrogram(crop: &PredictedCrop, view: &InputView, offset: usize, dim: usize) -> (usize, Vec<u8>) {
    let frames = crop.mask.len() * view.frames;
    let each = frames.div_ceil(COLUMNS).max(1);
    let columns = frames / each;
    let mut values = vec![0.0f32; columns * view.bins];
    for column in 0..columns {
        for frame in column * each..(column + 1) * each {
            let patch = &crop.patches[frame / view.frames * dim + offset..];
            for bin in 0..view.bins {
                // Bin-major: all frames of a bin lie side by side.
                values[bin * columns + column] += patch[bin * view.frames + frame % view.frames] / each as f32;
            }
        }
    }
    let mut sorted: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f32::total_cmp);
    let at = |share: f64| sorted.get((share * sorted.len() as f64) as usize).copied().unwrap_or(0.0);
    let (low, high) = (at(0.01), at(0.995));
    let level = |value: f32| (255.0 * ((value - low) / (high - low).max(1e-6)).clamp(0.0, 1.0)) as u8;
    let rows = values.chunks_exact(columns.max(1)).rev();
    (columns, rows.flatten().map(|value| level(*value)).collect())
}

/// Lowest and highest sample of every column.
fn waveform(svg: &mut String, crop: &PredictedCrop, view: &InputView, offset: usize, dim: usize) {
    let samples: Vec<f32> =
        crop.patches.chunks_exact(dim).flat_map(|patch| patch[offset..offset + view.frames].iter().copied()).collect();
    let top = samples.iter().fold(1e-6f32, |top, sample| top.max(sample.abs()));
    let each = samples.len().div_ceil(COLUMNS).max(1);
    let step = (WIDTH - LEFT) / samples.len().div_ceil(each).max(1) as f64;
    let y = |sample: f32| 8.0 + SIGNAL / 2.0 * (1.0 - f64::from(sample / top));
    let mut path = String::new();
    for (column, chunk) in samples.chunks(each).enumerate() {
        let (low, high) = chunk.iter().fold((f32::MAX, f32::MIN), |(low, high), s| (low.min(*s), high.max(*s)));
        let _infallible = write!(path, "M{:.1} {:.1}V{:.1}", LEFT + step * column as f64, y(high), y(low) + 0.5);
    }
    let _infallible = writeln!(svg, "<path d=\"{path}\" stroke=\"#2563eb\" class=\"s0\" stroke-width=\"{step:.2}\"/>");
}

/// Hidden spans over the signal.
fn veil(svg: &mut String, mask: &[bool]) {
    let step = (WIDTH - LEFT) / mask.len().max(1) as f64;
    let mut start = 0;
    for span in mask.chunk_by(|a, b| a == b) {
        if span[0] {
            let (x, width) = (LEFT + step * start as f64, step * span.len() as f64);
            let _infallible = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"8\" width=\"{width:.1}\" height=\"{SIGNAL}\" fill=\"#ffffff\" opacity=\"0.5\"/>\
                 <rect x=\"{x:.1}\" y=\"2\" width=\"{width:.1}\" height=\"4\" fill=\"#64748b\" class=\"hidden\"/>"
            );
        }
        start += span.len();
    }
}

/// Colours of the tokens, and of the answers where something is hidden.
fn strips(all: &PredictedCrops, crop: &PredictedCrop, stream: usize) -> (Vec<u8>, Vec<u8>) {
    let streams = all.streams.len();
    let of = |codes: &[u32]| codes.iter().skip(stream).step_by(streams).copied().collect::<Vec<u32>>();
    let (tokens, answers) = (of(&crop.tokens), of(&crop.predicted));
    // Neighbouring codes need not mean the same, so their colours are far apart.
    let colours = tokens.iter().map(|code| (code.wrapping_mul(2_654_435_761) >> 24) as u8);
    let answer = |((token, answer), masked): ((&u32, &u32), &bool)| match (masked, token == answer) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => 2,
    };
    (colours.collect(), tokens.iter().zip(&answers).zip(&crop.mask).map(answer).collect())
}

/// A picture over the whole time axis.
fn image(svg: &mut String, png: &[u8], y: f64, height: f64, crisp: bool) {
    let style = if crisp { " image-rendering=\"pixelated\" style=\"image-rendering:pixelated\"" } else { "" };
    let _infallible = writeln!(
        svg,
        "<image x=\"{LEFT}\" y=\"{y:.1}\" width=\"{}\" height=\"{height}\" preserveAspectRatio=\"none\"{style} \
         href=\"{}\"/>",
        WIDTH - LEFT,
        data_uri("image/png", png)
    );
}

fn time_axis(svg: &mut String, all: &PredictedCrops, y: f64) {
    let seconds = all.positions() as f64 / all.rate_hz.max(1e-9);
    let step = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0].into_iter().find(|step| seconds / step <= 16.0).unwrap_or(300.0);
    let mut time = 0.0;
    while time <= seconds {
        let x = LEFT + (WIDTH - LEFT) * time / seconds.max(1e-9);
        let anchor = if time == 0.0 {
            "start"
        } else if x > WIDTH - 16.0 {
            "end"
        } else {
            "middle"
        };
        let words = if time == 0.0 { "0 s".to_owned() } else { format!("{time}") };
        text(svg, (x, y + 9.0), &format!("fill=\"#64748b\" class=\"soft\" text-anchor=\"{anchor}\""), &words);
        time += step;
    }
}

/// From black over purple and orange to pale yellow, even in lightness ("magma", by N. Smith and S. van der Walt, CC0).
pub(super) fn heat() -> Vec<[u8; 4]> {
    const STOPS: [[f64; 3]; 9] = [
        [0.0, 0.0, 4.0],
        [28.0, 16.0, 68.0],
        [79.0, 18.0, 123.0],
        [129.0, 37.0, 129.0],
        [181.0, 54.0, 122.0],
        [229.0, 80.0, 100.0],
        [251.0, 135.0, 97.0],
        [254.0, 194.0, 135.0],
        [252.0, 253.0, 191.0],
    ];
    let colour = |level: usize| {
        let at = level as f64 / 255.0 * 8.0;
        let (low, share) = ((at as usize).min(7), at - (at as usize).min(7) as f64);
        let mix = |part: usize| (STOPS[low][part] * (1.0 - share) + STOPS[low + 1][part] * share).round() as u8;
        [mix(0), mix(1), mix(2), 255]
    };
    (0..256).map(colour).collect()
}

/// 256 hues, in three lightnesses.
fn wheel() -> Vec<[u8; 4]> {
    let colour = |index: usize| {
        let (hue, light) = (index as f64 / 256.0 * 6.0, [0.42, 0.58, 0.72][index % 3]);
        let spread = 0.55 * (1.0 - (2.0 * light - 1.0f64).abs());
        let part = |turn: f64| {
            let distance = ((hue + turn) % 6.0 - 3.0).abs() - 1.0;
            (255.0 * (light + spread * (distance.clamp(0.0, 1.0) - 0.5))).round() as u8
        };
        [part(0.0), part(4.0), part(2.0), 255]
    };
    (0..256).map(colour).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crops(view: &str, bins: usize, frames: usize) -> PredictedCrops {
        let positions = 10;
        let crop = PredictedCrop {
            track: 31,
            crop: 2,
            name: None,
            patches: (0..positions * bins * frames).map(|i| (i % 13) as f32 - 6.0).collect(),
            tokens: (0..2 * positions as u32).collect(),
            mask: (0..positions).map(|position| position % 5 < 2).collect(),
            predicted: (0..2 * positions as u32).map(|code| if code % 4 == 0 { code } else { 0 }).collect(),
        };
        PredictedCrops {
            step: 3,
            rate_hz: 2.5,
            views: vec![InputView { name: view.to_owned(), bins, frames }],
            streams: vec!["mel/0".to_owned(), "<mel>/1".to_owned()],
            codebook_size: 64,
            crops: vec![crop],
        }
    }

    #[test]
    fn a_crop_has_its_picture_hidden_spans_and_strips() {
        let all = crops("mel", 4, 2);
        let svg = draw(&all, &all.crops[0]);
        // The spectrogram, and two strips for each of two streams; two spans of two rectangles.
        assert_eq!((svg.matches("<image ").count(), svg.matches("<rect ").count()), (5, 4), "{svg}");
        assert!(svg.contains("&lt;mel&gt;/1") && !svg.contains("NaN"), "{svg}");
        let (columns, pixels) = spectrogram(&all.crops[0], &all.views[0], 0, 8);
        assert_eq!((columns, pixels.len()), (20, 80));
        // Positions 0, 1, 5, 6 are hidden: codes 0 1 2 3 10 11 12 13, of which 0 and 12 are answered right.
        assert_eq!(strips(&all, &all.crops[0], 0).1, [1, 2, 0, 0, 0, 2, 1, 0, 0, 0]);
        let words = caption(&all, &all.crops[0]);
        let expected = "crop 2: 40.0 % hidden; of the hidden tokens 25.0 % answered right, 25.0 % by the best constant";
        assert!(words.contains(expected), "{words}");
        let name = Some(CropName { path: "rock/<song>.ogg".to_owned(), start_s: 89.96 });
        let words = caption(&all, &PredictedCrop { name, ..all.crops[0].clone() });
        assert!(words.starts_with("rock/<song>.ogg from 1:30.0 on: 40.0 % hidden"), "{words}");
    }

    #[test]
    fn samples_are_drawn_as_a_waveform() {
        let all = crops("waveform", 1, 400);
        let svg = draw(&all, &all.crops[0]);
        assert_eq!((svg.matches("<image ").count(), svg.matches("<path ").count()), (4, 1));
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
