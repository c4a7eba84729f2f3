//! The page: figures, curves, crops, codebooks, rejects, and what the run was.

use std::fmt::Write as _;

use omar_stages::storage::utc;
use serde_json::Value;

use super::chart::{self, Chart, Curve, Look, Scale};
use super::{Run, Training, crops, evaluation};
use crate::codebooks;
use crate::forecast::si;
use crate::progress::{clock, hours};
use crate::svg::escape;
use crate::training::live::percent;
use crate::training::{Row, TrainingLog};

const STYLE: &str = include_str!("style.css");
/// Size of a chart, in the units of its SVG.
const CHART: (f64, f64) = (570.0, 290.0);
/// Streams that have curves of their own.
const STREAMS: usize = 8;
/// Colours of training, held-out crops and constants, as indices.
const TRAIN: usize = 0;
const VALID: usize = 1;
const BASELINES: [usize; 2] = [4, 7];

/// The whole page.
pub(super) fn page(run: &Run) -> String {
    let name = escape(run.manifest["graph"].as_str().unwrap_or("run"));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{name}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n"
    );
    header(&mut html, run, &name);
    for training in &run.trainings {
        curves_section(&mut html, training);
        examples_section(&mut html, training);
    }
    evaluation::sections(&mut html, &run.evaluations, &run.spectrograms);
    evaluation::datasets(&mut html, &run.datasets);
    codebooks_section(&mut html, run, &name);
    rejects_section(&mut html, run);
    nodes_section(&mut html, run);
    about_section(&mut html, run);
    html.push_str("</body>\n</html>\n");
    html
}

/// Name, state, and the figures that matter.
fn header(html: &mut String, run: &Run, name: &str) {
    let outcome = run.manifest["outcome"].as_str().unwrap_or("under way");
    let class = match outcome {
        "complete" => "complete",
        "interrupted" => "interrupted",
        "under way" => "running",
        _ => "failed",
    };
    let begun = run.manifest["first_started"].as_u64().or(run.manifest["started"].as_u64()).map(utc);
    let shown: String = outcome.chars().take(120).collect();
    let _infallible = writeln!(
        html,
        "<header>\n<h1>{name} <span class=\"state {class}\">{}</span></h1>\n<p class=\"lead\">{} &middot; seed {} &middot; \
         omar-flow {}</p>",
        escape(&shown),
        begun.unwrap_or_default(),
        run.manifest["seed"],
        escape(run.manifest["omar_flow"].as_str().unwrap_or_default())
    );
    html.push_str("<div class=\"figures\">\n");
    let mut figure = |value: String, what: String| {
        let _infallible = writeln!(html, "<div><b>{}</b><span>{}</span></div>", escape(&value), escape(&what));
    };
    for training in &run.trainings {
        let log = &training.log;
        let Some(last) = log.train.last() else { continue };
        if let Some(valid) = log.valid.last() {
            let unigram = valid.unigram.map(|share| format!("unigram {}, ", percent(share))).unwrap_or_default();
            let baselines = format!("held-out accuracy; {unigram}chance {}", percent(log.spec.chance));
            figure(percent(valid.accuracy), baselines);
            figure(format!("{:.3}", valid.loss), format!("held-out loss, nats; guessing {:.3}", -log.spec.chance.ln()));
        }
        figure(format!("{} / {}", last.step, log.spec.steps), "steps".to_owned());
        figure(hours(last.elapsed_s), format!("of training, {} crops", last.crops));
        let node = run.plan["nodes"].as_array().into_iter().flatten().find(|node| node["id"] == training.node.as_str());
        if let Some(parameters) = node.and_then(|node| node["estimate"]["parameters"].as_f64()) {
            figure(si(parameters), "parameters".to_owned());
        }
    }
    for found in &run.evaluations {
        if let Some(main) = found.main() {
            let what = format!("{}, {}, layer {}", main.key.metric, main.key.input, main.key.layer);
            figure(crate::evaluation::table::value(main), what);
        }
    }
    let audio = run.summary["nodes"].as_array().into_iter().flatten().filter_map(|node| node["audio_s"].as_f64());
    let audio = audio.fold(0.0, f64::max);
    let tracks = run.manifest["tracks"].as_u64().unwrap_or(0);
    let seen = if audio > 0.0 { format!("recordings; {} computed", hours(audio)) } else { "recordings".to_owned() };
    figure(tracks.to_string(), seen);
    figure(run.rejected().to_string(), "in the quarantine".to_owned());
    html.push_str("</div>\n</header>\n");
}

fn curves_section(html: &mut String, training: &Training) {
    let charts = charts(&training.log);
    if charts.is_empty() {
        return;
    }
    let resumes = training.log.resumes.iter().filter(|step| **step > 0).count();
    let resumed = match resumes {
        0 => String::new(),
        n => format!(" Dotted lines: the run was resumed there ({n})."),
    };
    let _infallible = writeln!(
        html,
        "<section>\n<h2>Training of <code>{}</code></h2>\n<p class=\"soft\">Held-out crops are predicted with the same \
         masks every time. <em>Unigram</em> is the best that an answer can reach without looking at the music: always \
         the most frequent code of each stream, among the same tokens.{resumed}</p>\n<div class=\"charts\">",
        escape(&training.node)
    );
    charts.iter().for_each(|svg| *html += svg);
    html.push_str("</div>\n</section>\n");
}

/// The charts of a training.
fn charts(log: &TrainingLog) -> Vec<String> {
    let train = |of: fn(&Row) -> f64| log.train.rows().map(|row| (row.step as f64, of(row))).collect::<Vec<_>>();
    let valid = |of: fn(&Row) -> f64| log.valid.rows().map(|row| (row.step as f64, of(row))).collect::<Vec<_>>();
    let curve = |name: &str, colour, points, look| Curve { name: name.to_owned(), colour, points, look };
    let level = |name: &str, colour, value: f64| {
        let ends = [log.train.rows().next(), log.train.last()];
        curve(name, colour, ends.iter().flatten().map(|row| (row.step as f64, value)).collect(), Look::Baseline)
    };
    let unigram: Vec<(f64, f64)> = log.valid.rows().filter_map(|row| Some((row.step as f64, row.unigram?))).collect();
    let chance = log.spec.chance;
    let mut charts = vec![
        (
            "Loss, nats",
            Scale::Linear,
            vec![
                curve("training", TRAIN, train(|row| row.loss), Look::Smooth),
                curve("held out", VALID, valid(|row| row.loss), Look::Dots),
                level("guessing", BASELINES[1], -chance.ln()),
            ],
        ),
        (
            "Accuracy of masked tokens",
            Scale::Percent,
            vec![
                curve("training", TRAIN, train(|row| row.accuracy), Look::Smooth),
                curve("held out", VALID, valid(|row| row.accuracy), Look::Dots),
                curve("unigram", BASELINES[0], unigram, Look::Baseline),
                level("chance", BASELINES[1], chance),
            ],
        ),
    ];
    let streams = &log.spec.streams;
    if (2..=STREAMS).contains(&streams.len()) {
        let held = log.valid.last().is_some();
        let of = |stream: usize| {
            let rows: Box<dyn Iterator<Item = &Row>> =
                if held { Box::new(log.valid.rows()) } else { Box::new(log.train.rows()) };
            rows.filter_map(move |row| Some((row.step as f64, f64::from(*row.streams.get(stream)?)))).collect()
        };
        let look = if held { Look::Dots } else { Look::Smooth };
        let curves = streams.iter().enumerate().map(|(stream, name)| curve(name, stream, of(stream), look));
        let title = if held { "Held-out accuracy by stream" } else { "Training accuracy by stream" };
        charts.push((title, Scale::Percent, curves.collect()));
    }
    charts.push(("Learning rate", Scale::FromZero, vec![curve("lr", 2, train(|row| row.lr), Look::Line)]));
    let norm = train(|row| row.grad_norm.unwrap_or(f64::NAN));
    charts.push(("Norm of the gradients", Scale::Logarithmic, vec![curve("norm", 3, norm, Look::Smooth)]));
    charts.push(("Crops per second", Scale::FromZero, vec![curve("crops/s", 5, speed(log), Look::Smooth)]));
    let draw = |(title, scale, mut curves): (&str, Scale, Vec<Curve>)| {
        curves.retain(|curve| !curve.points.is_empty());
        chart::draw(&Chart { title, curves, scale, along: "steps", resumes: &log.resumes }, CHART)
    };
    charts.into_iter().filter_map(draw).collect()
}

/// Crops per second between rows.
fn speed(log: &TrainingLog) -> Vec<(f64, f64)> {
    let rows: Vec<&Row> = log.train.rows().collect();
    let between = |pair: &[&Row]| {
        let (seconds, crops) = (pair[1].elapsed_s - pair[0].elapsed_s, pair[1].crops.saturating_sub(pair[0].crops));
        (seconds > 0.0).then(|| (pair[1].step as f64, crops as f64 / seconds))
    };
    rows.windows(2).filter_map(between).collect()
}

/// Loss and accuracy as a picture of its own.
pub(super) fn curves(training: &Training) -> Option<String> {
    let charts = charts(&training.log);
    if charts.is_empty() {
        return None;
    }
    let columns = 2;
    let rows = charts.len().div_ceil(columns);
    let (width, height) = (columns as f64 * CHART.0, rows as f64 * CHART.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (index, chart) in charts.iter().enumerate() {
        let (x, y) = ((index % columns) as f64 * CHART.0, (index / columns) as f64 * CHART.1);
        let _infallible = write!(svg, "<g transform=\"translate({x} {y})\">\n{chart}</g>\n");
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn examples_section(html: &mut String, training: &Training) {
    let Some(examples) = training.examples.as_ref().filter(|examples| !examples.crops.is_empty()) else { return };
    let _infallible = writeln!(
        html,
        "<section>\n<h2>Held-out crops after step {}</h2>\n<p class=\"soft\">What the model is given, veiled where it is \
         hidden from it; below, for every stream, its tokens in a colour of their own each, and whether the model \
         answers the hidden ones right.</p>\n<div class=\"key\"><span><i style=\"background:#64748b\"></i>hidden</span>\
         <span><i style=\"background:#0d9488\"></i>answered right</span>\
         <span><i style=\"background:#f43f5e\"></i>answered wrong</span></div>",
        examples.step
    );
    for crop in &examples.crops {
        let caption = escape(&crops::caption(examples, crop));
        let picture = crops::draw(examples, crop);
        let _infallible = writeln!(html, "<figure><figcaption>{caption}</figcaption>\n{picture}</figure>");
    }
    html.push_str("</section>\n");
}

fn codebooks_section(html: &mut String, run: &Run, name: &str) {
    if run.codebooks.is_empty() {
        return;
    }
    html.push_str("<section>\n<h2>Codebooks</h2>\n");
    for warning in codebooks::warnings(&run.codebooks) {
        let _infallible = writeln!(html, "<p>{}</p>", escape(&warning));
    }
    let _infallible = writeln!(
        html,
        "<figure class=\"codebooks\">\n{}</figure>\n</section>",
        codebooks::picture(name, &run.codebooks)
    );
}

fn rejects_section(html: &mut String, run: &Run) {
    if run.rejects.is_empty() {
        return;
    }
    html.push_str("<section>\n<h2>Quarantine</h2>\n<div class=\"wide\"><table>\n");
    html.push_str("<tr><th>class</th><th class=\"n\">recordings</th><th>for example</th></tr>\n");
    for (class, rejects) in &run.rejects {
        let example = |(path, message): &(String, String)| {
            format!("<code>{}</code> <span class=\"soft\">{}</span>", escape(path), escape(message))
        };
        let examples: Vec<String> = rejects.examples.iter().map(example).collect();
        let _infallible = writeln!(
            html,
            "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(class),
            rejects.count,
            examples.join("<br>")
        );
    }
    html.push_str("</table></div>\n</section>\n");
}

fn nodes_section(html: &mut String, run: &Run) {
    let Some(nodes) = run.summary["nodes"].as_array() else { return };
    html.push_str("<section>\n<h2>Nodes</h2>\n<div class=\"wide\"><table>\n<tr><th>node</th><th>stage</th>");
    for name in ["rows", "from the cache", "rejected", "audio", "busy"] {
        let _infallible = write!(html, "<th class=\"n\">{name}</th>");
    }
    html.push_str("</tr>\n");
    for node in nodes {
        let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
        let count = |name: &str| if number(name) > 0.0 { format!("{}", number(name)) } else { String::new() };
        let time = |name: &str| if number(name) > 0.0 { hours(number(name)) } else { String::new() };
        let cells = [count("rows_out"), count("rows_cached"), count("rejected"), time("audio_s"), time("busy_s")]
            .join("</td><td class=\"n\">");
        let (id, stage) = (scalar(&node["node"]), scalar(&node["stage"]));
        let _infallible =
            writeln!(html, "<tr><td><code>{id}</code></td><td>{stage}</td><td class=\"n\">{cells}</td></tr>");
    }
    html.push_str("</table></div>\n</section>\n");
}

/// Everything in the manifest, and where the run is.
fn about_section(html: &mut String, run: &Run) {
    html.push_str("<section>\n<h2>About this run</h2>\n<dl>\n");
    let mut entry = |name: &str, value: &str| {
        let _infallible = writeln!(html, "<dt>{}</dt><dd>{value}</dd>", escape(&name.replace('_', " ")));
    };
    for (name, value) in run.manifest.as_object().into_iter().flatten() {
        let value = match (name.as_str(), value.as_u64()) {
            ("started" | "ended" | "first_started", Some(seconds)) => utc(seconds),
            _ => scalar(value),
        };
        entry(name, &value);
    }
    if let Some(seconds) = run.summary["wall_s"].as_f64() {
        entry("wall time", &clock(seconds));
    }
    entry("folder", &escape(&run.folder.display().to_string()));
    html.push_str("</dl>\n</section>\n");
}

/// A JSON value as markup.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => escape(text),
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(" "),
        other => escape(&other.to_string()),
    }
}
