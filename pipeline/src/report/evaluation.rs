//! The part of the page about probes: tables, bars per class, confusions, timelines, curves, coverage.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use omar_schemas::units::Bytes;
use omar_stages::ops::probe::Spectrogram;
use omar_stages::storage::StorageError;
use serde_json::Value;

use super::chart::{self, Chart, Curve, Look, Scale};
use super::timeline;
use crate::evaluation::table;
use crate::evaluation::{Evaluation, paper};
use crate::svg::{escape, text};

/// Size of a chart, in the units of its SVG.
const CHART: (f64, f64) = (570.0, 290.0);
/// Classes that have a bar.
const BARS: usize = 60;

/// All sections, a task after the other.
pub(super) fn sections(html: &mut String, evaluations: &[Evaluation], spectrograms: &Spectrograms) {
    for (task, all) in table::by_task(evaluations) {
        let dataset = all[0].details["dataset"].as_str().unwrap_or_default();
        let _infallible =
            writeln!(html, "<section>\n<h2>{} <span class=\"soft\">{}</span></h2>", escape(task), escape(dataset));
        let metric = &all[0].spec.metric;
        let better = if all[0].spec.smaller_is_better { "smaller is better" } else { "larger is better" };
        let _infallible = writeln!(
            html,
            "<p class=\"soft\">Test recordings; the task is judged by {} ({better}). The layer is the one that is best on \
             the validation recordings. {}</p>",
            escape(metric),
            uncertainty(&all)
        );
        html.push_str(&table::of_task(&all).html());
        folds(html, &all);
        published(html, task);
        html.push_str("</section>\n");
        html.push_str("<section>\n<h3>Layers</h3>\n<div class=\"charts\">\n");
        if let Some(svg) = layers(&all) {
            html.push_str(&svg);
        }
        if let Some(svg) = curves(&all) {
            html.push_str(&svg);
        }
        html.push_str("</div>\n</section>\n");
        shown(html, task, &all, spectrograms);
        for evaluation in &all {
            classes(html, evaluation);
        }
        for evaluation in &all {
            confusion(html, evaluation);
        }
        coverage(html, &all);
    }
}

/// What stands behind `±` and the intervals.
fn uncertainty(all: &[&Evaluation]) -> String {
    let folds = all.iter().filter_map(|evaluation| evaluation.details["folds"].as_u64()).max();
    match folds {
        Some(folds) => format!("Figures are means over {folds} folds; ± is the deviation from fold to fold."),
        None => "Intervals are 95 % by bootstrap over test recordings.".to_owned(),
    }
}

/// A table per representation, closed at first.
fn folds(html: &mut String, all: &[&Evaluation]) {
    for evaluation in all {
        if let Some(own) = table::of_folds(evaluation) {
            let name = escape(&evaluation.spec.input);
            let _infallible = writeln!(html, "<details><summary>Folds of {name}</summary>");
            html.push_str(&own.html());
            html.push_str("</details>\n");
        }
    }
}

/// What the paper reports, as a line.
fn published(html: &mut String, task: &str) {
    let of: Vec<String> = paper::of(task).iter().map(|(model, value)| format!("{} {value}", escape(model))).collect();
    if !of.is_empty() {
        let _infallible = writeln!(
            html,
            "<p class=\"soft\">The paper (arXiv 2507.03482, table 4), on its own data sets: {}.</p>",
            of.join(", ")
        );
    }
}

/// The main figure over layers, a curve per representation with several.
fn layers(all: &[&Evaluation]) -> Option<String> {
    let metric = &all[0].spec.metric;
    let curve = |(colour, evaluation): (usize, &&Evaluation)| {
        let figures = evaluation.figures.iter();
        let of = figures.filter(|f| f.key.split == "test" && f.key.class.is_none() && f.key.metric == *metric);
        let points = of.filter_map(|f| Some((f.key.layer.parse::<f64>().ok()?, f.mean()))).collect::<Vec<_>>();
        Curve { name: evaluation.spec.input.clone(), colour, points, look: Look::Dots }
    };
    let mut curves: Vec<Curve> = all.iter().enumerate().map(curve).filter(|curve| !curve.points.is_empty()).collect();
    let ends = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0));
    let (first, last) = ends.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
    if first >= last {
        return None;
    }
    // What has no layers is a level to compare with.
    for (colour, evaluation) in all.iter().enumerate() {
        if !curves.iter().any(|curve| curve.name == evaluation.spec.input)
            && let Some(main) = evaluation.main()
        {
            let points = vec![(first, main.mean()), (last, main.mean())];
            curves.push(Curve { name: evaluation.spec.input.clone(), colour, points, look: Look::Baseline });
        }
    }
    let title = format!("{metric} by layer, test");
    chart::draw(&Chart { title: &title, curves, scale: Scale::Linear, along: "layers", resumes: &[] }, CHART)
}

/// Validation over steps, of the chosen layer and the first repeat.
fn curves(all: &[&Evaluation]) -> Option<String> {
    let curve = |(colour, evaluation): (usize, &&Evaluation)| {
        let selected = &evaluation.details["selected"];
        let fits = evaluation.details["fits"].as_array().into_iter().flatten();
        let fit = fits.into_iter().find(|fit| fit["layer"] == *selected)?;
        let looks = fit["looks"].as_array()?.iter();
        let points = looks.filter_map(|look| Some((look["step"].as_f64()?, look["quality"].as_f64()?))).collect();
        Some(Curve { name: evaluation.spec.input.clone(), colour, points, look: Look::Dots })
    };
    let curves: Vec<Curve> = all.iter().enumerate().filter_map(curve).collect();
    chart::draw(
        &Chart { title: "Validation while training", curves, scale: Scale::Linear, along: "steps", resumes: &[] },
        CHART,
    )
}

/// A bar per class, from the best.
fn classes(html: &mut String, evaluation: &Evaluation) {
    let of = evaluation.figures.iter().filter(|f| f.selected && f.key.split == "test");
    let mut bars: Vec<(&str, f64, &str)> =
        of.filter_map(|f| Some((f.key.class.as_deref()?, f.mean(), f.key.metric.as_str()))).collect();
    let Some(metric) = bars.first().map(|bar| bar.2) else { return };
    bars.retain(|bar| bar.2 == metric && bar.1.is_finite());
    bars.sort_by(|a, b| b.1.total_cmp(&a.1));
    bars.truncate(BARS);
    let height = 8.0 + 15.0 * bars.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 {height}\" role=\"img\" font-size=\"11\" \
         font-family=\"Inter, Helvetica, Arial, sans-serif\">\n"
    );
    for (row, (class, value, _)) in bars.iter().enumerate() {
        let y = 4.0 + 15.0 * row as f64;
        text(&mut svg, (170.0, y + 11.0), "fill=\"#64748b\" class=\"soft\" text-anchor=\"end\"", class);
        let width = 640.0 * value.clamp(0.0, 1.0);
        let _infallible = writeln!(
            svg,
            "<rect x=\"180\" y=\"{:.1}\" width=\"{width:.1}\" height=\"11\" rx=\"2\" fill=\"#2563eb\" class=\"f0\"/>",
            y + 1.5
        );
        text(&mut svg, (188.0 + width, y + 11.0), "fill=\"#64748b\" class=\"soft\"", &format!("{value:.3}"));
    }
    svg.push_str("</svg>\n");
    let _infallible = writeln!(
        html,
        "<section>\n<h3>{}: {} by class</h3>\n<figure>{svg}</figure>\n</section>",
        escape(&evaluation.spec.input),
        escape(metric)
    );
}

/// A matrix whose rows are shares of the truth.
fn confusion(html: &mut String, evaluation: &Evaluation) {
    let found = &evaluation.details["confusion"];
    let (Some(classes), Some(counts)) = (found["classes"].as_array(), found["counts"].as_array()) else { return };
    let names: Vec<&str> = classes.iter().filter_map(Value::as_str).collect();
    let (cell, left, top) = ((620.0 / names.len().max(1) as f64).min(44.0), 90.0, 66.0);
    let size = cell * names.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" style=\"max-width:{:.0}px\" role=\"img\" \
         font-size=\"10\" font-family=\"Inter, Helvetica, Arial, sans-serif\">\n",
        left + size + 10.0,
        top + size + 10.0,
        left + size + 10.0
    );
    for (row, counts) in counts.iter().enumerate() {
        let counts: Vec<f64> = counts.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let total: f64 = counts.iter().sum();
        let y = top + cell * row as f64;
        let label = "fill=\"#64748b\" class=\"soft\"";
        let name = names.get(row).copied().unwrap_or_default();
        text(&mut svg, (left - 6.0, y + cell / 2.0 + 3.5), &format!("{label} text-anchor=\"end\""), name);
        let x = left + cell * row as f64 + cell / 2.0 + 3.5;
        let turned = format!("{label} transform=\"rotate(-90 {x:.1} {:.1})\"", top - 6.0);
        text(&mut svg, (x, top - 6.0), &turned, name);
        for (column, count) in counts.iter().enumerate() {
            let share = if total > 0.0 { count / total } else { 0.0 };
            let x = left + cell * column as f64;
            let colour = if row == column { "#0d9488" } else { "#ea580c" };
            let _infallible = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{0:.1}\" height=\"{0:.1}\" fill=\"{colour}\" \
                 fill-opacity=\"{share:.3}\" stroke=\"#e2e8f0\" class=\"grid\" stroke-width=\"0.5\"><title>{1} as {2}: {3:.1} % \
                 ({4})</title></rect>",
                cell,
                escape(name),
                escape(names.get(column).copied().unwrap_or_default()),
                100.0 * share,
                count
            );
            if share >= 0.005 && cell >= 24.0 {
                let place = (x + cell / 2.0, y + cell / 2.0 + 3.5);
                text(&mut svg, place, &format!("{label} text-anchor=\"middle\""), &format!("{:.0}", 100.0 * share));
            }
        }
    }
    svg.push_str("</svg>\n");
    let _infallible = writeln!(
        html,
        "<section>\n<h3>{}: what was taken for what</h3>\n<p class=\"soft\">Rows are the truth; percent of its {}.</p>\n\
         <figure>{svg}</figure>\n</section>",
        escape(&evaluation.spec.input),
        escape(found["unit"].as_str().unwrap_or_default())
    );
}

/// Spectrograms of recordings, by task and name: a probe of features draws them, the answers of all stand below them.
pub(super) type Spectrograms = BTreeMap<(String, String), Spectrogram>;

/// What the probes of a run have drawn.
pub(super) fn spectrograms(folder: &Path, evaluations: &[Evaluation]) -> Result<Spectrograms, StorageError> {
    let mut all = Spectrograms::new();
    for evaluation in evaluations {
        for (recording, own) in Spectrogram::read(&folder.join(&evaluation.node))? {
            all.insert((evaluation.spec.task.clone(), recording), own);
        }
    }
    Ok(all)
}

/// Annotations over time, with the answers of every representation below them.
fn shown(html: &mut String, task: &str, all: &[&Evaluation], spectrograms: &Spectrograms) {
    let mut recordings: BTreeMap<&str, Vec<timeline::Answered<'_>>> = BTreeMap::new();
    for evaluation in all {
        for own in evaluation.details["shown"].as_array().into_iter().flatten() {
            let name = own["recording"].as_str().unwrap_or_default();
            recordings.entry(name).or_default().push((&evaluation.spec.input, own));
        }
    }
    if recordings.is_empty() {
        return;
    }
    let legend = timeline::legend(task);
    let _infallible = writeln!(html, "<section>\n<h3>Annotated and answered</h3>\n{legend}");
    for (name, answers) in recordings {
        let spectrogram = spectrograms.get(&(task.to_owned(), name.to_owned()));
        let picture = timeline::draw(task, &answers, spectrogram);
        let _infallible = writeln!(html, "<figure><figcaption>{}</figcaption>\n{picture}</figure>", escape(name));
    }
    html.push_str("</section>\n");
}

/// What could not be used, and what is in two splits.
fn coverage(html: &mut String, all: &[&Evaluation]) {
    html.push_str("<section>\n<h3>Coverage</h3>\n<div class=\"wide\"><table>\n<tr><th>representation</th>");
    for name in ["annotated", "train", "valid", "test", "without audio", "without labels", "in two splits"] {
        let _infallible = write!(html, "<th class=\"n\">{name}</th>");
    }
    html.push_str("</tr>\n");
    for evaluation in all {
        let found = &evaluation.details["coverage"];
        let used = |split: usize| found["used"][split].as_u64().unwrap_or(0);
        let leaks = evaluation.details["leaks"].as_array().map_or(0, Vec::len) as u64;
        let count = |name: &str| found[name].as_u64().unwrap_or(0);
        let cells = [count("annotated"), used(0), used(1), used(2), count("unheard"), count("unlabelled"), leaks];
        let cells = cells.map(|count| count.to_string()).join("</td><td class=\"n\">");
        let _infallible =
            writeln!(html, "<tr><td>{}</td><td class=\"n\">{cells}</td></tr>", escape(&evaluation.spec.input));
    }
    html.push_str("</table></div>\n");
    let list = |html: &mut String, what: &str, names: Vec<String>| {
        if !names.is_empty() {
            let _infallible = writeln!(html, "<p class=\"soft\">{what}: {}</p>", names.join(", "));
        }
    };
    let details = &all[0].details;
    let unheard = details["coverage"]["unheard_names"].as_array().into_iter().flatten().filter_map(Value::as_str);
    list(
        html,
        "Annotated, but without usable audio",
        unheard.map(|name| format!("<code>{}</code>", escape(name))).collect(),
    );
    let leak = |leak: &Value| {
        let side = |side: &str| {
            let word = |at: usize| escape(leak[side][at].as_str().unwrap_or_default());
            format!("<code>{}</code> ({})", word(0), word(1))
        };
        format!("{} and {}", side("first"), side("second"))
    };
    let leaks = details["leaks"].as_array().into_iter().flatten().map(leak);
    list(html, "The same recording in two splits", leaks.collect());
    let filed = |evaluation: &&&Evaluation| evaluation.details["vectors"][1].as_u64().is_some_and(|bytes| bytes > 0);
    let sizes = |evaluation: &&Evaluation| {
        let bytes = |place: usize| Bytes(evaluation.details["vectors"][place].as_u64().unwrap_or(0));
        format!("{} ({} held, {} in a file)", escape(&evaluation.spec.input), bytes(0), bytes(1))
    };
    list(html, "Vectors beyond the limit of memory", all.iter().filter(filed).map(sizes).collect());
    html.push_str("</section>\n");
}

/// Problems that are listed of a data set.
const PROBLEMS: usize = 12;

/// What the data sets hold, and what is wrong with them.
pub(super) fn datasets(html: &mut String, datasets: &[(String, Value)]) {
    let word = |value: &Value| escape(value.as_str().unwrap_or_default());
    for (node, description) in datasets {
        let _infallible = writeln!(html, "<section>\n<h2>Data of <code>{}</code></h2>", escape(node));
        html.push_str("<div class=\"wide\"><table>\n<tr><th>layout</th>");
        let names = ["listed", "left out", "with audio", "with labels", "usable", "labels", "problems"];
        names.iter().for_each(|name| *html += &format!("<th class=\"n\">{name}</th>"));
        html.push_str("</tr>\n");
        let sets = description["sets"].as_array().map_or(&[][..], Vec::as_slice);
        for set in sets {
            let coverage = &set["coverage"];
            let left_out =
                coverage["left_out"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum::<u64>();
            let count = |name: &str| coverage[name].as_u64().unwrap_or(0);
            let problems = set["problems"].as_u64().unwrap_or(0);
            let cells = [
                count("listed"),
                left_out,
                count("with_audio"),
                count("with_labels"),
                count("usable"),
                count("labels"),
                problems,
            ];
            let cells = cells.map(|cell| cell.to_string()).join("</td><td class=\"n\">");
            let _infallible = writeln!(html, "<tr><td>{}</td><td class=\"n\">{cells}</td></tr>", word(&set["layout"]));
        }
        html.push_str("</table></div>\n");
        for problem in sets.iter().flat_map(|set| set["first_problems"].as_array().into_iter().flatten()).take(PROBLEMS)
        {
            let line = problem["line"].as_u64().map(|line| format!(", line {line}")).unwrap_or_default();
            let (path, message) = (word(&problem["path"]), word(&problem["message"]));
            let _infallible = writeln!(html, "<p class=\"soft\"><code>{path}</code>{line}: {message}</p>");
        }
        let within = sets.iter().flat_map(|set| set["leaks"].as_array().into_iter().flatten());
        for leak in within.chain(description["songs_in_two_splits"].as_array().into_iter().flatten()).take(PROBLEMS) {
            let tracks = leak["tracks"].as_array().into_iter().flatten();
            let tracks = tracks.map(|track| format!("<code>{}</code> ({})", word(&track[0]), word(&track[1])));
            let _infallible = writeln!(
                html,
                "<p>In two splits, by {} <code>{}</code>: {}</p>",
                word(&leak["shared"]),
                word(&leak["key"]),
                tracks.take(6).collect::<Vec<_>>().join(", ")
            );
        }
        html.push_str("</section>\n");
    }
}
