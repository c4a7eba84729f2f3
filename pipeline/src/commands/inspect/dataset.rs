//! Rows: what they are, where they come from, how much room they take.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use arrow::array::{AsArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Schema, UInt32Type};
use omar_schemas::column;
use omar_schemas::units::Bytes;
use omar_stages::storage::{Commit, EdgeDescription, Node, RejectRecord, StorageError, TrackFile};
use parquet::arrow::arrow_reader::RowSelection;
use serde::Serialize;
use serde_json::Value;

use super::cells::{Cell, cell, type_words};
use super::filter::Filter;
use super::statistics::{self, ColumnStatistics, collectors};
use super::table::Table;
use super::target::Files;
use super::{InspectArgs, InspectError};
use crate::edges;

/// How many rejected tracks are shown for each class.
const EXAMPLES: usize = 3;

/// Rows of one kind.
#[derive(Debug, Serialize)]
pub(super) struct Dataset {
    #[serde(skip)]
    name: PathBuf,
    #[serde(skip)]
    edge_words: String,
    edge: Option<EdgeDescription>,
    made_by: Option<Node>,
    files: usize,
    rows: u64,
    bytes: u64,
    decoded_bytes: u64,
    columns: Vec<Column>,
    contents: Option<Contents>,
    rejects: Vec<RejectClass>,
    matching_rows: Option<usize>,
    head: Vec<BTreeMap<String, Cell>>,
    statistics: Option<Vec<ColumnStatistics>>,
}

#[derive(Debug, Serialize)]
struct Column {
    name: String,
    r#type: String,
    shape: String,
    bytes: u64,
    decoded_bytes: u64,
}

/// What the key columns say.
#[derive(Debug, Default, Serialize)]
struct Contents {
    tracks: usize,
    audio_s: f64,
    rows_by_split: BTreeMap<String, u64>,
}

/// Tracks that were rejected for the same kind of reason.
#[derive(Debug, Serialize)]
pub(super) struct RejectClass {
    pub(super) class: String,
    pub(super) tracks: usize,
    pub(super) examples: Vec<RejectRecord>,
}

impl Dataset {
    pub(super) fn read(of: Files, args: &InspectArgs) -> Result<Self, InspectError> {
        let first = TrackFile::open(&of.files[0])?;
        let schema = first.schema().clone();
        let mut dataset = Self {
            edge_words: edges::words(&schema),
            edge: EdgeDescription::of(&schema),
            made_by: first.provenance().and_then(|json| serde_json::from_str(json).ok()),
            files: of.files.len(),
            rows: 0,
            bytes: 0,
            decoded_bytes: 0,
            columns: columns(&schema),
            contents: None,
            rejects: reject_classes(of.commits.iter().flat_map(|commit: &Commit| &commit.rejects)),
            matching_rows: None,
            head: Vec::new(),
            statistics: None,
            name: of.name,
        };
        let mut tracks = HashSet::new();
        let mut collectors = (args.stats && !args.schema).then(|| collectors(&schema));
        for path in &of.files {
            let file = TrackFile::open(path)?;
            if file.schema() != &schema {
                let message = format!("its columns are not those of `{}`", of.files[0].display());
                return Err(InspectError::Target { path: path.clone(), message });
            }
            dataset.bytes += path.metadata().map_err(|error| StorageError::io(path, error))?.len();
            dataset.rows += file.rows();
            dataset.add_sizes(&file, &schema);
            if args.schema {
                continue;
            }
            dataset.add_contents(&file, &mut tracks)?;
            let selected = args.filter.as_ref().map(|filter| filter.select(&file)).transpose()?;
            if let Some((_, rows)) = &selected {
                *dataset.matching_rows.get_or_insert(0) += rows;
                if *rows == 0 {
                    continue;
                }
            }
            let selection = selected.map(|(selection, _)| selection);
            dataset.add_head(&file, args.head, selection.clone())?;
            for collector in collectors.iter_mut().flatten() {
                for batch in file.scan(Some(&collector.columns()), selection.clone())? {
                    collector.add(&batch?)?;
                }
            }
        }
        if let (Some(0), Some(filter)) = (dataset.matching_rows, &args.filter) {
            return Err(InspectError::NoMatch(Filter::clone(filter)));
        }
        dataset.decoded_bytes = dataset.columns.iter().map(|column| column.decoded_bytes).sum();
        dataset.statistics = collectors.map(|all| all.into_iter().map(statistics::Collector::finish).collect());
        Ok(dataset)
    }

    fn add_sizes(&mut self, file: &TrackFile, schema: &Schema) {
        for group in file.metadata().row_groups() {
            for chunk in group.columns() {
                let root = &chunk.column_path().parts()[0];
                let Some(column) = self.columns.iter_mut().find(|column| column.name == *root) else { continue };
                column.bytes += chunk.compressed_size().unsigned_abs();
                let field = schema.field_with_name(root).ok();
                let fixed = field.filter(|field| *field.data_type() != DataType::Utf8);
                let fixed = fixed.and_then(|field| edges::bytes_per_row(&Schema::new(vec![field.clone()])));
                column.decoded_bytes += match fixed {
                    Some(bytes) => bytes * group.num_rows().unsigned_abs(),
                    None => chunk.uncompressed_size().unsigned_abs(),
                };
            }
        }
    }

    fn add_contents(&mut self, file: &TrackFile, tracks: &mut HashSet<u64>) -> Result<(), InspectError> {
        let keys = ["track_id", "split", "audio_s", "sample_rate", "samples"];
        let of_audio = self.edge.as_ref().is_some_and(|edge| edge.name == "audio");
        let keys = if of_audio { &keys[..] } else { &keys[..3] };
        if file.schema().index_of("track_id").is_err() {
            return Ok(());
        }
        let contents = self.contents.get_or_insert_default();
        for batch in file.scan(Some(keys), None)? {
            let batch = batch?;
            if let Ok(ids) = column::<UInt64Array>(&batch, "track_id") {
                tracks.extend(ids.values());
            }
            if let Ok(splits) = column::<StringArray>(&batch, "split") {
                for split in splits.iter().flatten() {
                    match contents.rows_by_split.get_mut(split) {
                        Some(rows) => *rows += 1,
                        None => _ = contents.rows_by_split.insert(split.to_owned(), 1),
                    }
                }
            }
            contents.audio_s += audio_s(&batch);
        }
        contents.tracks = tracks.len();
        Ok(())
    }

    fn add_head(&mut self, file: &TrackFile, rows: usize, among: Option<RowSelection>) -> Result<(), InspectError> {
        if self.head.len() == rows {
            return Ok(());
        }
        for batch in file.scan(None, among)? {
            let batch = batch?;
            let schema = batch.schema();
            for row in 0..batch.num_rows().min(rows - self.head.len()) {
                let cells = schema.fields().iter().zip(batch.columns());
                let cells = cells.map(|(field, array)| Ok((field.name().clone(), cell(field, array, row)?)));
                self.head.push(cells.collect::<Result<_, InspectError>>()?);
            }
            if self.head.len() == rows {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn text(&self, args: &InspectArgs) -> String {
        let mut out = format!("{}: {}\n", self.name.display(), self.edge_words);
        if !args.schema {
            out.push('\n');
            out += &self.summary();
        }
        let mut columns = Table::new(&["column", "type", "shape", "on disk>", "in memory>", "ratio>"]);
        for column in &self.columns {
            let ratio = column.decoded_bytes as f64 / column.bytes.max(1) as f64;
            columns.row(vec![
                column.name.clone(),
                column.r#type.clone(),
                column.shape.clone(),
                Bytes(column.bytes).to_string(),
                Bytes(column.decoded_bytes).to_string(),
                format!("{ratio:.1}"),
            ]);
        }
        let _ = write!(out, "\n{columns}");
        if !self.rejects.is_empty() {
            let _ = write!(out, "\n{}", rejects_text(&self.rejects));
        }
        if !self.head.is_empty() {
            let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            let mut table = Table::new(&names);
            for row in &self.head {
                table.row(names.iter().map(|name| row[*name].text.clone()).collect());
            }
            let of = match (self.matching_rows, &args.filter) {
                (Some(rows), Some(filter)) => format!("{rows} rows with {filter}"),
                _ => format!("{} rows", self.rows),
            };
            let _ = write!(out, "\n{} of {of}\n{table}", self.head.len());
        }
        if let Some(statistics) = &self.statistics {
            let _ = write!(out, "\n{}", statistics::text(statistics));
        }
        out
    }

    fn summary(&self) -> String {
        let mut out = String::new();
        let mut rows = self.rows.to_string();
        if let Some(contents) = &self.contents {
            let _ = write!(rows, " of {} tracks", contents.tracks);
            if contents.audio_s > 0.0 {
                let _ = write!(rows, ", {:.2} h of audio", contents.audio_s / 3600.0);
            }
            let splits = contents.rows_by_split.iter().map(|(split, rows)| format!("{split} {rows}"));
            let _ = write!(rows, " ({})", splits.collect::<Vec<_>>().join(", "));
        }
        let _ = writeln!(out, "  rows     {rows}");
        let ratio = self.decoded_bytes as f64 / self.bytes.max(1) as f64;
        let (bytes, decoded) = (Bytes(self.bytes), Bytes(self.decoded_bytes));
        let _ = writeln!(out, "  files    {}: {bytes} on disk, {decoded} in memory ({ratio:.1} : 1)", self.files);
        if let Some(node) = &self.made_by {
            let Node { node: name, stage, version, params, seed, fingerprint, upstream, omar_flow, .. } = node;
            let _ = writeln!(out, "  made by  {name}: {stage} v{version} {}", words(params));
            for (index, upstream) in upstream.iter().rev().enumerate() {
                let label = if index == 0 { "from" } else { "" };
                let (name, stage, version) = (&upstream.node, &upstream.stage, upstream.version);
                let _ = writeln!(out, "  {label:<7}  {name}: {stage} v{version} {}", words(&upstream.params));
            }
            let _ = writeln!(out, "           seed {seed}, omar-flow {omar_flow}, fingerprint {fingerprint:.12}");
        }
        out
    }
}

/// Rejected tracks by class, the most frequent first.
pub(super) fn reject_classes<'a>(rejects: impl Iterator<Item = &'a RejectRecord>) -> Vec<RejectClass> {
    let mut classes: BTreeMap<&str, RejectClass> = BTreeMap::new();
    for reject in rejects {
        let class = classes.entry(&reject.class).or_insert_with(|| RejectClass {
            class: reject.class.clone(),
            tracks: 0,
            examples: Vec::new(),
        });
        class.tracks += 1;
        if class.examples.len() < EXAMPLES {
            class.examples.push(reject.clone());
        }
    }
    let mut classes: Vec<RejectClass> = classes.into_values().collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.tracks));
    classes
}

pub(super) fn rejects_text(classes: &[RejectClass]) -> String {
    let mut table = Table::new(&["rejected", "tracks>", "by", "for example"]);
    for RejectClass { class, tracks, examples } in classes {
        for (index, RejectRecord { path, node, stage, message, .. }) in examples.iter().enumerate() {
            let (class, tracks) = if index == 0 { (class.clone(), tracks.to_string()) } else { Default::default() };
            table.row(vec![class, tracks, format!("{node} ({stage})"), format!("{path}: {message}")]);
        }
    }
    table.to_string()
}

fn columns(schema: &Schema) -> Vec<Column> {
    let column = |field: &arrow::datatypes::FieldRef| {
        let (r#type, shape) = type_words(field);
        Column { name: field.name().clone(), r#type, shape, bytes: 0, decoded_bytes: 0 }
    };
    schema.fields().iter().map(column).collect()
}

/// Seconds of audio that rows stand for: `audio_s` of crops, or samples at their rate.
fn audio_s(batch: &RecordBatch) -> f64 {
    if let Ok(seconds) = column::<Float64Array>(batch, "audio_s") {
        return seconds.values().iter().sum();
    }
    let (Some(samples), Some(rates)) = (batch.column_by_name("samples"), batch.column_by_name("sample_rate")) else {
        return 0.0;
    };
    let (Some(samples), Some(rates)) = (samples.as_list_opt::<i32>(), rates.as_primitive_opt::<UInt32Type>()) else {
        return 0.0;
    };
    (0..batch.num_rows()).map(|row| f64::from(samples.value_length(row)) / f64::from(rates.value(row).max(1))).sum()
}

/// `{patch_rate: 25}` without the quotes.
fn words(params: &Value) -> String {
    match params {
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {}", words(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
