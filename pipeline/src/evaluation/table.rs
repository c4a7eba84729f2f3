//! Figures as tables.

use std::fmt::Write as _;

use super::{Evaluation, Figure, paper};
use crate::svg::escape;

/// Metrics that a table has columns for, at most.
const COLUMNS: usize = 8;

/// A table: a head, and rows of cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    /// Cells that are the best of their column, as row and column.
    pub(crate) best: Vec<(usize, usize)>,
}

/// `0.7312`, or `0.7312 ± 0.0041` over folds or repeats.
pub(crate) fn value(figure: &Figure) -> String {
    in_words(figure.mean(), figure.deviation())
}

/// A mean with its deviation, where there is one.
pub(crate) fn in_words(mean: f64, deviation: Option<f64>) -> String {
    let digits = if mean.abs() >= 10.0 { 2 } else { 4 };
    let deviation = deviation.map(|deviation| format!(" ± {deviation:.digits$}")).unwrap_or_default();
    format!("{mean:.digits$}{deviation}")
}

/// The figures of the probes of one task on the test split: a row per representation, with its chosen layer.
pub(crate) fn of_task(evaluations: &[&Evaluation]) -> Table {
    let mut metrics: Vec<&str> = Vec::new();
    for figure in evaluations.iter().flat_map(|evaluation| evaluation.chosen("test")) {
        if !metrics.contains(&figure.key.metric.as_str()) && metrics.len() < COLUMNS {
            metrics.push(&figure.key.metric);
        }
    }
    let mut head: Vec<String> = ["representation", "layer", "protocol"].map(str::to_owned).to_vec();
    head.extend(metrics.iter().map(|metric| (*metric).to_owned()));
    head.push("95 % interval".to_owned());
    let mut rows = Vec::new();
    let mut mains = Vec::new();
    for evaluation in evaluations {
        let Some(main) = evaluation.main() else { continue };
        let mut row = vec![main.key.input.clone(), main.key.layer.clone(), main.key.protocol.clone()];
        for metric in &metrics {
            let found = evaluation.chosen("test").find(|figure| figure.key.metric == *metric);
            row.push(found.map_or("-".to_owned(), value));
        }
        row.push(main.interval.map_or("-".to_owned(), |(low, high)| format!("{low:.3} to {high:.3}")));
        rows.push(row);
        let sign = if evaluation.spec.smaller_is_better { -1.0 } else { 1.0 };
        mains.push(sign * main.mean());
    }
    let largest = mains.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let best = (0..mains.len()).filter(|row| mains[*row] >= largest).map(|row| (row, 3)).collect();
    Table { head, rows, best: if mains.len() > 1 { best } else { Vec::new() } }
}

/// The main figure of every layer that was probed, on `valid` and `test`.
pub(crate) fn of_layers(evaluation: &Evaluation) -> Table {
    let metric = &evaluation.spec.metric;
    let of = |split: &str| {
        let split = split.to_owned();
        let all = evaluation.figures.iter();
        all.filter(move |f| f.key.split == split && f.key.class.is_none() && f.key.metric == *metric)
    };
    let head = vec!["layer".to_owned(), format!("{metric}, valid"), format!("{metric}, test")];
    let mut best = Vec::new();
    let rows = of("test").enumerate().map(|(row, test)| {
        if test.selected {
            best.push((row, 0));
        }
        let valid = of("valid").find(|valid| valid.key.layer == test.key.layer).map_or("-".to_owned(), value);
        vec![test.key.layer.clone(), valid, value(test)]
    });
    let rows = rows.collect();
    Table { head, rows, best }
}

/// The figures of every fold on the test split, where there are several.
pub(crate) fn of_folds(evaluation: &Evaluation) -> Option<Table> {
    let figures: Vec<&Figure> = evaluation.chosen("test").take(COLUMNS).collect();
    let folds: Vec<u64> = figures.first()?.by_fold().iter().map(|fold| fold.0).collect();
    let head = std::iter::once("fold".to_owned()).chain(figures.iter().map(|figure| figure.key.metric.clone()));
    let cell = |figure: &&Figure, fold: u64| {
        let own = figure.by_fold().into_iter().find(|own| own.0 == fold);
        own.map_or("-".to_owned(), |own| format!("{:.4}", own.1))
    };
    let row = |fold: &u64| {
        std::iter::once(fold.to_string()).chain(figures.iter().map(|figure| cell(figure, *fold))).collect()
    };
    let table = Table { head: head.collect(), rows: folds.iter().map(row).collect(), best: Vec::new() };
    (!folds.is_empty()).then_some(table)
}

impl Table {
    /// As Markdown, the best in bold.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = line(&self.head) + &line(&vec!["---".to_owned(); self.head.len()]);
        for (row, cells) in self.rows.iter().enumerate() {
            let cell = |(column, cell): (usize, &String)| {
                if self.best.contains(&(row, column)) { format!("**{cell}**") } else { cell.clone() }
            };
            text += &line(&cells.iter().enumerate().map(cell).collect::<Vec<_>>());
        }
        text
    }

    /// For a page, the best in bold.
    pub(crate) fn html(&self) -> String {
        let mut html = "<div class=\"wide\"><table>\n<tr>".to_owned();
        for name in &self.head {
            let _infallible = write!(html, "<th>{}</th>", escape(name));
        }
        html.push_str("</tr>\n");
        for (row, cells) in self.rows.iter().enumerate() {
            html.push_str("<tr>");
            for (column, cell) in cells.iter().enumerate() {
                let cell = escape(cell);
                let _infallible = if self.best.contains(&(row, column)) {
                    write!(html, "<td><b>{cell}</b></td>")
                } else {
                    write!(html, "<td>{cell}</td>")
                };
            }
            html.push_str("</tr>\n");
        }
        html + "</table></div>\n"
    }

    /// In columns, for a terminal; the best have a star.
    pub(crate) fn plain(&self) -> String {
        let starred = |row: usize, column: usize, cell: &str| {
            if self.best.contains(&(row, column)) { format!("{cell} *") } else { cell.to_owned() }
        };
        let body = self.rows.iter().enumerate().map(|(row, cells)| {
            cells.iter().enumerate().map(|(column, cell)| starred(row, column, cell)).collect::<Vec<_>>()
        });
        let all: Vec<Vec<String>> = std::iter::once(self.head.clone()).chain(body).collect();
        let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &all {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let _infallible = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        text
    }
}

/// Evaluations by task, in the order in which they come.
pub(crate) fn by_task(evaluations: &[Evaluation]) -> Vec<(&str, Vec<&Evaluation>)> {
    let mut tasks: Vec<(&str, Vec<&Evaluation>)> = Vec::new();
    for evaluation in evaluations {
        match tasks.iter_mut().find(|(task, _)| *task == evaluation.spec.task) {
            Some((_, all)) => all.push(evaluation),
            None => tasks.push((&evaluation.spec.task, vec![evaluation])),
        }
    }
    tasks
}

/// For a terminal: a table per task.
pub(crate) fn of_tasks(evaluations: &[Evaluation]) -> Vec<String> {
    let tasks = by_task(evaluations).into_iter();
    tasks.map(|(task, all)| format!("{task}, test split\n{}", of_task(&all).plain())).collect()
}

/// All tables of a run, with what the paper has for each task.
pub(crate) fn markdown(evaluations: &[Evaluation]) -> String {
    let mut text = String::new();
    for (task, all) in by_task(evaluations) {
        let dataset = all[0].details["dataset"].as_str().unwrap_or_default();
        let _infallible = writeln!(text, "## {task} ({dataset}), test split\n\n{}", of_task(&all).markdown());
        for evaluation in &all {
            if let Some(folds) = of_folds(evaluation) {
                let _infallible = writeln!(text, "Folds of {}:\n\n{}", evaluation.spec.input, folds.markdown());
            }
            let _infallible =
                writeln!(text, "Layers of {}:\n\n{}", evaluation.spec.input, of_layers(evaluation).markdown());
        }
        let published: Vec<String> = paper::of(task).iter().map(|(model, value)| format!("{model} {value}")).collect();
        if !published.is_empty() {
            let _infallible = writeln!(text, "The paper, on its data: {}.\n", published.join(", "));
        }
    }
    text
}
