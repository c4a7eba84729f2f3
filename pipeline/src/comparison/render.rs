//! The table for a terminal, as Markdown, as a page, as parquet.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::error::ArrowError;

use super::{Cell, Comparison, HoleKind, Measured, Row};
use crate::evaluation::paper;
use crate::evaluation::table::{Table, in_words};
use crate::svg::escape;

const STYLE: &str = include_str!("../report/style.css");
/// What the page needs beside the style of reports.
const OWN_STYLE: &str = "td.hole { color: var(--soft); } td .paper { display: block; color: var(--soft); font-size: 12px; }\n\
    tr.paper td { color: var(--soft); } th { white-space: nowrap; } ol { padding-left: 22px; }\n";

fn figure(measured: &Measured) -> String {
    in_words(measured.value, measured.deviation)
}

impl Comparison {
    /// `tagging: mAP ↑`
    fn head(&self, column: usize) -> String {
        let task = &self.columns[column];
        let measured = self.rows.iter().find_map(|row| row.cells.get(column)?.figure());
        let reported = paper::TASKS.iter().find(|(name, _)| name == task).map_or("", |(_, metric)| metric);
        let metric = measured.map_or(reported, |measured| measured.metric.as_str());
        let down = measured.map_or(task == "difficulty", |measured| measured.smaller_is_better);
        format!("{task}: {metric} {}", if down { "↓" } else { "↑" })
    }

    /// Rows that are the best of a column, where there are several.
    fn best(&self, column: usize) -> Vec<usize> {
        let value = |row: &Row| {
            let measured = row.cells.get(column)?.figure()?;
            Some(if measured.smaller_is_better { -measured.value } else { measured.value })
        };
        let values: Vec<Option<f64>> = self.rows.iter().map(value).collect();
        let largest = values.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
        if values.iter().flatten().count() < 2 {
            return Vec::new();
        }
        (0..values.len()).filter(|row| values[*row].is_some_and(|value| value >= largest)).collect()
    }

    /// The reasons of all holes, each once, in the order of the cells; and the number of a cell's.
    fn notes(&self) -> (Vec<&str>, impl Fn(&Cell) -> usize) {
        let mut notes: Vec<&str> = Vec::new();
        for cell in self.rows.iter().flat_map(|row| &row.cells) {
            if let Cell::Hole(hole) = cell
                && !notes.contains(&hole.reason.as_str())
            {
                notes.push(&hole.reason);
            }
        }
        let numbered: Vec<String> = notes.iter().map(|note| (*note).to_owned()).collect();
        let number = move |cell: &Cell| match cell {
            Cell::Hole(hole) => numbered.iter().position(|note| *note == hole.reason).map_or(0, |at| at + 1),
            Cell::Figure(_) => 0,
        };
        (notes, number)
    }

    /// The table as text cells; `with_paper` adds the rows of the paper.
    fn table(&self, with_paper: bool) -> Table {
        let (_, number) = self.notes();
        let mut head = vec!["representation".to_owned()];
        head.extend((0..self.columns.len()).map(|column| self.head(column)));
        let best =
            (0..self.columns.len()).flat_map(|column| self.best(column).into_iter().map(move |row| (row, column + 1)));
        let best = best.collect();
        let mut rows: Vec<Vec<String>> = Vec::new();
        for row in &self.rows {
            let cell = |(cell, task): (&Cell, &String)| match cell {
                Cell::Figure(measured) => match row.reported(task) {
                    Some(reported) => format!("{} ({reported})", figure(measured)),
                    None => figure(measured),
                },
                Cell::Hole(hole) if hole.kind == HoleKind::NotRun => "-".to_owned(),
                Cell::Hole(_) => format!("- [{}]", number(cell)),
            };
            let cells = row.cells.iter().zip(&self.columns).map(cell);
            rows.push(std::iter::once(row.name.clone()).chain(cells).collect());
        }
        if with_paper {
            rows.extend(self.paper_rows());
        }
        Table { head, rows, best }
    }

    fn paper_rows(&self) -> impl Iterator<Item = Vec<String>> {
        paper::ROWS.iter().map(|model| {
            let cell = |task: &String| {
                let place = paper::TASKS.iter().position(|(name, _)| name == task);
                place.map_or("-".to_owned(), |place| model.values[place].to_string())
            };
            std::iter::once(format!("{} (paper)", model.model)).chain(self.columns.iter().map(cell)).collect()
        })
    }

    /// Reasons of holes that need saying, numbered as in the table.
    fn said(&self) -> Vec<(usize, &str)> {
        let (notes, _) = self.notes();
        let is_said = |note: &str| {
            let cells = self.rows.iter().flat_map(|row| &row.cells);
            cells
                .into_iter()
                .any(|cell| matches!(cell, Cell::Hole(hole) if hole.reason == note && hole.kind != HoleKind::NotRun))
        };
        notes.into_iter().enumerate().filter(|(_, note)| is_said(note)).map(|(at, note)| (at + 1, note)).collect()
    }

    /// How cells were made, in a sentence.
    fn made(&self) -> Option<String> {
        self.protocol.as_ref().map(|protocol| format!("protocol `{}`: {}", protocol.name, protocol.about))
    }

    /// For a terminal.
    pub(crate) fn plain(&self, with_paper: bool) -> String {
        let mut text = self.table(with_paper).plain();
        text.extend(self.made().map(|made| made + "\n"));
        if self.rows.iter().any(|row| row.paper.is_some()) {
            text += "in brackets: what the paper reports\n";
        }
        for (number, note) in self.said() {
            let _infallible = writeln!(text, "[{number}] {note}");
        }
        text
    }

    /// As Markdown: the table, its holes, and what is behind every figure.
    pub(crate) fn markdown(&self, with_paper: bool) -> String {
        let mut text = self.table(with_paper).markdown();
        text.extend(self.made().map(|made| format!("\nMade by {made}.\n")));
        if self.rows.iter().any(|row| row.paper.is_some()) {
            text += "\nIn brackets: what the paper reports (arXiv 2507.03482, table 4).\n";
        }
        for (number, note) in self.said() {
            let _infallible = write!(text, "\n[{number}] {note}\n");
        }
        text + "\n" + &self.behind().markdown()
    }

    /// A row per figure: layer, protocol, probe, metrics, coverage, repeats.
    fn behind(&self) -> Table {
        let head = [
            "representation",
            "task",
            "figure",
            "95 % interval",
            "layer",
            "protocol",
            "probe",
            "metrics",
            "data",
            "test",
            "used of annotated",
        ];
        let mut rows = Vec::new();
        for (row, cell, task) in self.cells() {
            let Cell::Figure(measured) = cell else { continue };
            let several =
                |count: usize, what: &str| if count > 1 { format!(", {count} {what}") } else { String::new() };
            let of = several(measured.folds, "folds") + &several(measured.repeats, "repeats");
            let interval = measured.interval.map_or("-".to_owned(), |(low, high)| format!("{low:.3} to {high:.3}"));
            rows.push(vec![
                row.name.clone(),
                task.to_owned(),
                figure(measured) + &of,
                interval,
                measured.layer.clone(),
                measured.evaluated.clone().unwrap_or_else(|| "-".to_owned()),
                measured.probe.clone(),
                measured.protocol.clone(),
                measured.dataset.clone(),
                measured.n.to_string(),
                format!("{} of {}", measured.used.iter().sum::<u64>(), measured.annotated),
            ]);
        }
        Table { head: head.map(str::to_owned).to_vec(), rows, best: Vec::new() }
    }

    fn cells(&self) -> impl Iterator<Item = (&Row, &Cell, &str)> {
        let of = |row| {
            let row: &Row = row;
            row.cells.iter().zip(&self.columns).map(move |(cell, task)| (row, cell, task.as_str()))
        };
        self.rows.iter().flat_map(of)
    }

    /// A page that needs nothing beside it.
    pub(crate) fn html(&self) -> String {
        let name = escape(&self.name);
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{name}</title>\n\
             <style>\n{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{name}</h1>\n\
             <p class=\"lead\">Frozen encoders, probes on top; {} figures, {} holes. Arrows say which way is better, bold is the \
             best of a column, ± the deviation over folds or repeats.</p>\n</header>\n",
            self.count(None),
            self.rows.len() * self.columns.len() - self.count(None)
        );
        if let Some(made) = self.made() {
            let _infallible = writeln!(html, "<p>Made by {}.</p>", escape(&made));
        }
        self.html_table(&mut html);
        let said = self.said();
        if !said.is_empty() {
            html.push_str("<section>\n<h2>Holes</h2>\n<ol>\n");
            for (number, note) in said {
                let _infallible = writeln!(html, "<li value=\"{number}\">{}</li>", escape(note));
            }
            html.push_str("</ol>\n</section>\n");
        }
        html.push_str(
            "<section>\n<h2>Behind the figures</h2>\n<p class=\"soft\">The layer is the one that is best on the \
                       validation recordings; intervals are by bootstrap over test recordings.</p>\n",
        );
        html.push_str(&self.behind().html());
        html + "</section>\n</body>\n</html>\n"
    }

    fn html_table(&self, html: &mut String) {
        let (_, number) = self.notes();
        let table = self.table(false);
        html.push_str("<section>\n<div class=\"wide\"><table>\n");
        let head = table.head.iter().map(|name| format!("<th>{}</th>", escape(name)));
        let _infallible = writeln!(html, "<tr>{}</tr>", head.collect::<String>());
        for (at, row) in self.rows.iter().enumerate() {
            let _infallible = write!(html, "<tr><td>{}</td>", escape(&row.name));
            for (column, (cell, task)) in row.cells.iter().zip(&self.columns).enumerate() {
                let _infallible = match cell {
                    Cell::Figure(measured) => {
                        let value = figure(measured);
                        let value =
                            if table.best.contains(&(at, column + 1)) { format!("<b>{value}</b>") } else { value };
                        let reported = row.reported(task);
                        let reported = reported.map(|value| format!("<span class=\"paper\">paper {value}</span>"));
                        write!(html, "<td>{value}{}</td>", reported.unwrap_or_default())
                    }
                    Cell::Hole(hole) if hole.kind == HoleKind::NotRun => write!(html, "<td class=\"hole\">–</td>"),
                    Cell::Hole(hole) => {
                        let title = escape(&hole.reason);
                        write!(html, "<td class=\"hole\" title=\"{title}\">– <sup>{}</sup></td>", number(cell))
                    }
                };
            }
            html.push_str("</tr>\n");
        }
        for cells in self.paper_rows() {
            html.push_str("<tr class=\"paper\">");
            for cell in cells {
                let _infallible = write!(html, "<td>{}</td>", escape(&cell));
            }
            html.push_str("</tr>\n");
        }
        html.push_str(
            "</table></div>\n<p class=\"soft\">The grey rows are the paper's (arXiv 2507.03482, table 4), on its own \
                       data sets.</p>\n</section>\n",
        );
    }

    /// A row per cell, holes included.
    ///
    /// # Errors
    /// When Arrow refuses, which it has no reason to.
    pub(crate) fn batch(&self) -> Result<RecordBatch, ArrowError> {
        let cells: Vec<(&Row, &Cell, &str)> = self.cells().collect();
        let words = |f: &dyn Fn(&Row, &Cell, &str) -> Option<String>| -> ArrayRef {
            Arc::new(cells.iter().map(|(row, cell, task)| f(row, cell, task)).collect::<StringArray>())
        };
        let measured = |f: fn(&Measured) -> String| words(&|_, cell, _| cell.figure().map(f));
        let numbers = |f: &dyn Fn(&Row, &Cell, &str) -> Option<f64>| -> ArrayRef {
            Arc::new(cells.iter().map(|(row, cell, task)| f(row, cell, task)).collect::<Float64Array>())
        };
        let counts = |f: &dyn Fn(&Measured) -> Option<u64>| -> ArrayRef {
            Arc::new(cells.iter().map(|(_, cell, _)| cell.figure().and_then(f)).collect::<UInt64Array>())
        };
        let used = |split: usize| counts(&move |m: &Measured| m.used.get(split).copied());
        let hole = |cell: &Cell| match cell {
            Cell::Hole(hole) => Some(hole.clone()),
            Cell::Figure(_) => None,
        };
        RecordBatch::try_from_iter_with_nullable([
            ("representation", words(&|row, _, _| Some(row.name.clone())), false),
            ("task", words(&|_, _, task| Some(task.to_owned())), false),
            ("status", words(&|_, cell, _| Some(hole(cell).map_or("figure", |h| h.kind.word()).to_owned())), false),
            ("reason", words(&|_, cell, _| hole(cell).map(|hole| hole.reason)), true),
            ("dataset", measured(|m| m.dataset.clone()), true),
            ("metric", measured(|m| m.metric.clone()), true),
            ("value", numbers(&|_, cell, _| cell.figure().map(|m| m.value)), true),
            ("deviation", numbers(&|_, cell, _| cell.figure().and_then(|m| m.deviation)), true),
            ("low", numbers(&|_, cell, _| cell.figure().and_then(|m| m.interval).map(|interval| interval.0)), true),
            ("high", numbers(&|_, cell, _| cell.figure().and_then(|m| m.interval).map(|interval| interval.1)), true),
            ("folds", counts(&|m| Some(m.folds as u64)), true),
            ("repeats", counts(&|m| Some(m.repeats as u64)), true),
            ("layer", measured(|m| m.layer.clone()), true),
            ("protocol", measured(|m| m.protocol.clone()), true),
            ("evaluated", words(&|_, cell, _| cell.figure().and_then(|m| m.evaluated.clone())), true),
            ("probe", measured(|m| m.probe.clone()), true),
            ("n", counts(&|m| Some(m.n)), true),
            ("annotated", counts(&|m| Some(m.annotated)), true),
            ("train", used(0), true),
            ("valid", used(1), true),
            ("test", used(2), true),
            ("paper", numbers(&|row, _, task| row.reported(task)), true),
            ("run", measured(|m| m.run.clone()), true),
            ("node", measured(|m| m.node.clone()), true),
        ])
    }
}
