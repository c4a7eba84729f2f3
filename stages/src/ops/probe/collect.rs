//! The annotated recordings of a corpus, with their vectors; what is missing, and what is there twice.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use omar_schemas::{LabelRow, Labels, Origin, Split};
use serde::Serialize;

use super::Plan;
use super::vectors::{Pool, Vectors};
use crate::error::StageError;
use crate::probe::task::{Annotated, Statement};

/// Names that are given in full of each kind of gap.
const NAMED: usize = 50;

/// What was annotated, and what of it could be used.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Coverage {
    /// Annotated recordings.
    pub(super) annotated: u64,
    /// Of these, those with vectors, by split: train, valid, test.
    pub(super) used: [u64; 3],
    /// Annotated recordings without vectors: no audio has their name. (Those whose audio was rejected do not come here at
    /// all: they are in the quarantine.)
    pub(super) unheard: u64,
    /// The first of them.
    pub(super) unheard_names: Vec<String>,
    /// Recordings with vectors that nobody annotated.
    pub(super) unlabelled: u64,
}

/// A recording that is in several splits, to the last bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Leak {
    /// The two recordings, with their splits.
    pub(super) first: (String, &'static str),
    pub(super) second: (String, &'static str),
}

/// All annotated recordings.
#[derive(Debug, Default)]
pub(super) struct Corpus {
    /// In the order of their names.
    pub(super) recordings: Vec<Annotated>,
    /// Who they are, and what they are used for.
    pub(super) origins: Vec<Origin>,
    /// Per recording and column of the input: its vectors, one after the other.
    pub(super) columns: Vec<Vec<Vec<f32>>>,
    /// Their hashes.
    pub(super) digests: Vec<Vec<[u8; 32]>>,
    pub(super) coverage: Coverage,
    pub(super) leaks: Vec<Leak>,
}

/// Collects a corpus.
pub(super) struct Collector {
    plan: Arc<Plan>,
    corpus: Corpus,
    /// Hashes of vectors, with the recording that they are of.
    seen: HashMap<[u8; 32], usize>,
}

impl Collector {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        Self { plan, corpus: Corpus::default(), seen: HashMap::new() }
    }

    /// Takes all rows of a recording: of the representation, and its labels.
    pub(super) fn add(&mut self, rows: &RecordBatch, labels: &RecordBatch) -> Result<(), StageError> {
        if labels.num_rows() == 0 {
            self.corpus.coverage.unlabelled += 1;
            return Ok(());
        }
        let origin = Origin::read(labels, 0)?;
        let vectors = if rows.num_rows() == 0 { Vectors::default() } else { self.vectors(&origin, rows)? };
        let coverage = &mut self.corpus.coverage;
        coverage.annotated += 1;
        if vectors.times.is_empty() {
            coverage.unheard += 1;
            if coverage.unheard_names.len() < NAMED {
                coverage.unheard_names.push(origin.path);
            }
            return Ok(());
        }
        coverage.used[place(origin.split)] += 1;
        self.keep(origin, Labels::rows(labels)?, vectors);
        Ok(())
    }

    fn vectors(&self, origin: &Origin, rows: &RecordBatch) -> Result<Vectors, StageError> {
        let vectors = self.plan.source.vectors(rows, self.plan.pool)?;
        for (name, column) in self.plan.source.names().iter().zip(&vectors.columns) {
            if !column.iter().all(|value| value.is_finite()) {
                let message = format!(
                    "`{}`: layer `{name}` of the input has values that are not finite: exclude the recording, or make \
                     its embeddings again (a cache of an older run may hold them)",
                    origin.path
                );
                return Err(StageError::Failed(message));
            }
        }
        Ok(vectors)
    }

    fn keep(&mut self, origin: Origin, labels: Vec<LabelRow>, vectors: Vectors) {
        let Self { plan, corpus, seen } = self;
        let digests: Vec<[u8; 32]> = vectors.columns.iter().map(|column| digest(column)).collect();
        let first = digests.first().copied().unwrap_or_default();
        let twin = *seen.entry(first).or_insert(corpus.recordings.len());
        if let Some(twin) = corpus.origins.get(twin).filter(|twin| twin.split != origin.split) {
            let side = |origin: &Origin| (origin.path.clone(), origin.split.as_str());
            corpus.leaks.push(Leak { first: side(twin), second: side(&origin) });
        }
        let rate = match (plan.pool, &plan.source) {
            (Pool::Rate(rate), _) => rate,
            (Pool::Frames, super::Source::Embeddings(spec)) => spec.rate.unwrap_or(0.0),
            _ => 0.0,
        };
        let Vectors { times, columns, end } = vectors;
        let labels = labels.into_iter().map(|LabelRow { start_s, end_s, label }| Statement { start_s, end_s, label });
        let (name, training, labels) = (origin.path.clone(), origin.split == Split::Train, labels.collect());
        corpus.recordings.push(Annotated { name, training, times, end, rate, labels });
        corpus.origins.push(origin);
        corpus.columns.push(columns);
        corpus.digests.push(digests);
    }

    /// The corpus, the recordings in the order of their names.
    pub(super) fn take(&mut self) -> Corpus {
        self.seen.clear();
        let mut corpus = std::mem::take(&mut self.corpus);
        let mut order: Vec<usize> = (0..corpus.recordings.len()).collect();
        order.sort_by(|a, b| corpus.recordings[*a].name.cmp(&corpus.recordings[*b].name));
        corpus.origins = order.iter().map(|index| corpus.origins[*index].clone()).collect();
        corpus.recordings = order.iter().map(|index| corpus.recordings[*index].clone()).collect();
        corpus.columns = order.iter().map(|index| std::mem::take(&mut corpus.columns[*index])).collect();
        corpus.digests = order.iter().map(|index| std::mem::take(&mut corpus.digests[*index])).collect();
        corpus.coverage.unheard_names.sort();
        corpus
    }
}

/// Place of a split in [`Coverage::used`].
pub(super) fn place(split: Split) -> usize {
    match split {
        Split::Train => 0,
        Split::Valid => 1,
        Split::Test => 2,
    }
}

fn digest(values: &[f32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::with_capacity(1 << 16);
    for part in values.chunks(1 << 14) {
        bytes.clear();
        bytes.extend(part.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update(&bytes);
    }
    *hasher.finalize().as_bytes()
}
