//! How often each code of each codebook occurs: a differential collection of counts, fed per batch, summed per code.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{SchemaRef, UInt16Type};
use differential_dataflow::AsCollection;
use differential_dataflow::operators::CountTotal;
use omar_schemas::{Edge, Tokens, fixed_values};
use timely::dataflow::StreamVec;

/// (node, stream of the node, codebook, code).
pub(crate) type CodeKey = (u32, u32, u32, u32);

/// The counts as they stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct CodeCounts(Arc<Mutex<BTreeMap<CodeKey, i64>>>);

impl CodeCounts {
    /// Adds to the count of a code.
    pub(crate) fn add(&self, key: CodeKey, count: i64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += count;
    }

    /// Counts by (node, stream, codebook): a list of (code, count).
    pub(crate) fn by_codebook(&self) -> BTreeMap<(u32, u32, u32), Vec<(u32, u64)>> {
        let mut grouped: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (&(node, stream, codebook, code), &count) in
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|(_, count)| **count > 0)
        {
            grouped.entry((node, stream, codebook)).or_default().push((code, count.unsigned_abs()));
        }
        grouped
    }
}

/// The codes of a batch, each with how often it occurs; nothing for rows that are not tokens.
pub(crate) fn count(node: usize, schema: &SchemaRef, batch: &RecordBatch, epoch: u64) -> Vec<(CodeKey, u64, isize)> {
    let Ok(spec) = Tokens::spec(schema) else { return Vec::new() };
    let mut counts: BTreeMap<CodeKey, isize> = BTreeMap::new();
    for (stream, description) in spec.streams.iter().enumerate() {
        for row in 0..batch.num_rows() {
            let codes = fixed_values::<UInt16Type>(batch, &description.view, row).unwrap_or_default();
            for (index, &code) in codes.iter().enumerate() {
                let codebook = index as u32 % description.codebooks;
                *counts.entry((node as u32, stream as u32, codebook, u32::from(code))).or_default() += 1;
            }
        }
    }
    counts.into_iter().map(|(key, count)| (key, epoch, count)).collect()
}

/// Sums the counts. Each worker holds the codes that hash to it; together they hold every code once.
pub(crate) fn usage<'scope>(
    codes: StreamVec<'scope, u64, (CodeKey, u64, isize)>,
    counts: CodeCounts,
) -> StreamVec<'scope, u64, ((CodeKey, isize), u64, isize)> {
    codes
        .as_collection()
        .count_total()
        .inspect(move |((key, count), _epoch, change)| counts.add(*key, (*count * *change) as i64))
        .inner
}
