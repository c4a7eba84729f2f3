//! The annotated recordings of a corpus, with their vectors; what is missing, and what is there twice.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use omar_schemas::{LabelRow, Labels, Origin, Split};
use serde::Serialize;

use super::Plan;
use super::shown::SHOWN;
use super::spectrogram::Spectrogram;
use super::store::{Column, Store};
use super::vectors::{Pool, Source, Vectors};
use crate::error::StageError;
use crate::probe::task::{Annotated, Statement, Unit};

/// Names that are given in full of each kind of gap.
const NAMED: usize = 50;

/// What was annotated, and what of it could be used.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Coverage {
    /// Annotated recordings.
    pub(super) annotated: u64,
    /// Of these, those with vectors, by split: train, valid, test; where there are several folds, in the first.
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
    /// Per recording, what it is used for in each of several folds; nothing where there is one split.
    pub(super) folds: Vec<Vec<Option<Split>>>,
    /// Per recording and column of the input: its vectors.
    pub(super) columns: Vec<Vec<Column>>,
    /// Their hashes.
    pub(super) digests: Vec<Vec<[u8; 32]>>,
    pub(super) coverage: Coverage,
    pub(super) leaks: Vec<Leak>,
    /// Spectrograms of the first recordings of `test`, by name, where the input has any.
    pub(super) spectrograms: BTreeMap<String, Spectrogram>,
}

impl Corpus {
    /// The recordings of a split, in a fold where there are several.
    pub(super) fn of(&self, fold: Option<u32>, split: Split) -> Vec<usize> {
        let is = |index: &usize| match fold {
            Some(fold) => self.folds[*index].get(fold as usize) == Some(&Some(split)),
            None => self.origins[*index].split == split,
        };
        (0..self.recordings.len()).filter(is).collect()
    }
}

/// Collects a corpus.
pub(super) struct Collector {
    plan: Arc<Plan>,
    corpus: Corpus,
    store: Store,
    /// Hashes of vectors, with the recording that they are of.
    seen: HashMap<[u8; 32], usize>,
}

impl Collector {
    /// What does not fit into memory goes to a file in `folder`, or where the system has temporary ones.
    pub(super) fn new(plan: Arc<Plan>, folder: Option<&Path>) -> Self {
        let store = Store::new(plan.params.memory.0, folder.unwrap_or(&std::env::temp_dir()));
        Self { plan, corpus: Corpus::default(), store, seen: HashMap::new() }
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
        let folds = if self.plan.labels.folds.is_some() { Labels::splits(labels, 0)? } else { Vec::new() };
        if folds.first().map_or(origin.split == Split::Test, |first| *first == Some(Split::Test)) {
            self.draw(&origin.path, rows)?;
        }
        self.keep(origin, folds, Labels::rows(labels)?, vectors)
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

    /// Draws a recording, if it is among the first of its split.
    fn draw(&mut self, name: &str, rows: &RecordBatch) -> Result<(), StageError> {
        let drawn = &mut self.corpus.spectrograms;
        let is_late = drawn.len() == SHOWN && drawn.last_key_value().is_some_and(|(last, _)| last.as_str() < name);
        let (Source::Features(spec), false) = (&self.plan.source, is_late) else { return Ok(()) };
        if self.plan.task.unit() == Unit::Frames
            && let Some(own) = Spectrogram::of(spec, self.plan.task, rows)?
        {
            drawn.insert(name.to_owned(), own);
        }
        if drawn.len() > SHOWN {
            drawn.pop_last();
        }
        Ok(())
    }

    fn keep(
        &mut self,
        origin: Origin,
        folds: Vec<Option<Split>>,
        labels: Vec<LabelRow>,
        vectors: Vectors,
    ) -> Result<(), StageError> {
        let Self { plan, corpus, store, seen } = self;
        let digests: Vec<[u8; 32]> = vectors.columns.iter().map(|column| digest(column)).collect();
        let first = digests.first().copied().unwrap_or_default();
        let twin = *seen.entry(first).or_insert(corpus.recordings.len());
        if let Some(other) = corpus.origins.get(twin) {
            let once = [(Some(other.split), Some(origin.split))];
            let several = corpus.folds[twin].iter().copied().zip(folds.iter().copied());
            let pairs: Vec<_> = if folds.is_empty() { once.to_vec() } else { several.collect() };
            let apart = pairs.into_iter().find_map(|(a, b)| Some((a?, b?)).filter(|(a, b)| a != b));
            if let Some((a, b)) = apart {
                let side = |origin: &Origin, split: Split| (origin.path.clone(), split.as_str());
                corpus.leaks.push(Leak { first: side(other, a), second: side(&origin, b) });
            }
        }
        let rate = match (plan.pool, &plan.source) {
            (Pool::Rate(rate), _) => rate,
            (Pool::Frames, Source::Embeddings(spec)) => spec.rate.unwrap_or(0.0),
            _ => 0.0,
        };
        let Vectors { times, columns, end } = vectors;
        let labels = labels.into_iter().map(|LabelRow { start_s, end_s, label }| Statement { start_s, end_s, label });
        let (name, training, labels) = (origin.path.clone(), origin.split == Split::Train, labels.collect());
        corpus.recordings.push(Annotated { name, training, times, end, rate, labels });
        corpus.origins.push(origin);
        corpus.folds.push(folds);
        corpus.columns.push(columns.into_iter().map(|column| store.keep(column)).collect::<Result<_, _>>()?);
        corpus.digests.push(digests);
        Ok(())
    }

    /// The corpus, the recordings in the order of their names, and the vectors.
    pub(super) fn take(&mut self) -> (Corpus, Store) {
        self.seen.clear();
        let mut corpus = std::mem::take(&mut self.corpus);
        let mut order: Vec<usize> = (0..corpus.recordings.len()).collect();
        order.sort_by(|a, b| corpus.recordings[*a].name.cmp(&corpus.recordings[*b].name));
        corpus.origins = order.iter().map(|index| corpus.origins[*index].clone()).collect();
        corpus.recordings = order.iter().map(|index| corpus.recordings[*index].clone()).collect();
        corpus.folds = order.iter().map(|index| std::mem::take(&mut corpus.folds[*index])).collect();
        corpus.columns = order.iter().map(|index| std::mem::take(&mut corpus.columns[*index])).collect();
        corpus.digests = order.iter().map(|index| std::mem::take(&mut corpus.digests[*index])).collect();
        corpus.coverage.unheard_names.sort();
        let limit = self.plan.params.memory.0;
        let empty = Store::new(limit, &std::env::temp_dir());
        (corpus, std::mem::replace(&mut self.store, empty))
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
