//! Brings the inputs of a several-input node into step: the same crops in the same rows, or all of a recording.

use std::collections::VecDeque;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use omar_schemas::{SchemaError, column};
use omar_stages::Meeting;

/// Rows of one recording that wait for their counterparts at the other ports. Crops arrive in rising order at every
/// port, so the smaller of two different heads has no counterpart.
#[derive(Debug, Default)]
pub(crate) struct Align {
    meeting: Meeting,
    ports: Vec<VecDeque<RecordBatch>>,
}

impl Align {
    pub(crate) fn new(ports: usize, meeting: Meeting) -> Self {
        Self { meeting, ports: (0..ports).map(|_| VecDeque::new()).collect() }
    }

    /// Takes a batch and returns what is complete now: one batch per port, equally long, with the same crops.
    pub(crate) fn push(&mut self, port: usize, batch: RecordBatch) -> Result<Vec<Vec<RecordBatch>>, SchemaError> {
        if self.ports.len() == 1 && self.meeting == Meeting::Crops {
            return Ok(vec![vec![batch]]);
        }
        if batch.num_rows() > 0 {
            self.ports[port].push_back(batch);
        }
        if self.meeting == Meeting::Recordings {
            return Ok(Vec::new());
        }
        let mut complete = Vec::new();
        while self.ports.iter().all(|queue| !queue.is_empty()) {
            let heads: Vec<&[u32]> = self.ports.iter().map(|queue| crops(&queue[0])).collect::<Result<_, _>>()?;
            let first: Vec<u32> = heads.iter().map(|crops| crops[0]).collect();
            let newest = first.iter().copied().max().unwrap_or_default();
            if first.iter().all(|&crop| crop == newest) {
                let shortest = heads.iter().map(|crops| crops.len()).min().unwrap_or_default();
                let equal = |row: usize| heads.iter().all(|crops| crops[row] == heads[0][row]);
                let rows = (0..shortest).take_while(|&row| equal(row)).count();
                complete.push(self.ports.iter_mut().map(|queue| take(queue, rows)).collect());
            } else {
                for (queue, _) in self.ports.iter_mut().zip(&first).filter(|(_, crop)| **crop < newest) {
                    take(queue, 1);
                }
            }
        }
        Ok(complete)
    }

    /// All that came of a complete recording, one batch per port, where inputs meet by recordings and any came.
    pub(crate) fn gather(&mut self, schemas: &[SchemaRef]) -> Result<Option<Vec<RecordBatch>>, ArrowError> {
        if self.meeting != Meeting::Recordings || self.ports.iter().all(VecDeque::is_empty) {
            return Ok(None);
        }
        let ports = self.ports.iter_mut().zip(schemas);
        ports
            .map(|(queue, schema)| concat_batches(schema, &*queue.make_contiguous()))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Forgets the recording.
    pub(crate) fn clear(&mut self) {
        self.ports.iter_mut().for_each(VecDeque::clear);
    }
}

fn crops(batch: &RecordBatch) -> Result<&[u32], SchemaError> {
    Ok(column::<UInt32Array>(batch, "crop_ix")?.values())
}

fn take(queue: &mut VecDeque<RecordBatch>, rows: usize) -> RecordBatch {
    let head = queue.pop_front().expect("the caller saw a head");
    if rows < head.num_rows() {
        queue.push_front(head.slice(rows, head.num_rows() - rows));
    }
    head.slice(0, rows)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{RecordBatch, UInt32Array};

    use super::{Align, Meeting, crops};

    fn batch(crops: &[u32]) -> RecordBatch {
        RecordBatch::try_from_iter([("crop_ix", Arc::new(UInt32Array::from(crops.to_vec())) as _)]).expect("a column")
    }

    #[test]
    fn rows_meet_whatever_the_batches_and_orphans_are_dropped() {
        let mut align = Align::new(2, Meeting::Crops);
        let mut met = Vec::new();
        let pushes: [(usize, &[u32]); 6] =
            [(0, &[0, 1, 2]), (1, &[0]), (1, &[1, 3]), (0, &[3, 4]), (0, &[5]), (1, &[5])];
        for (port, crops_in) in pushes {
            for group in align.push(port, batch(crops_in)).expect("crop_ix is there") {
                assert_eq!(crops(&group[0]).expect("column"), crops(&group[1]).expect("column"));
                met.extend_from_slice(crops(&group[0]).expect("column"));
            }
        }
        assert_eq!(met, [0, 1, 3, 5]);
    }

    #[test]
    fn recordings_meet_when_they_are_complete_whoever_has_rows() {
        let schema = batch(&[]).schema();
        let schemas = [schema.clone(), schema];
        let mut align = Align::new(2, Meeting::Recordings);
        for (port, crops) in [(0, [0u32, 1]), (1, [7, 7]), (0, [2, 3])] {
            assert!(align.push(port, batch(&crops)).expect("a batch").is_empty());
        }
        let met = align.gather(&schemas).expect("one schema").expect("rows came");
        assert_eq!(
            met.iter().map(|batch| crops(batch).expect("column").to_vec()).collect::<Vec<_>>(),
            [vec![0, 1, 2, 3], vec![7, 7]]
        );
        align.clear();
        assert!(align.gather(&schemas).expect("nothing").is_none());
        align.push(1, batch(&[5])).expect("a batch");
        let alone = align.gather(&schemas).expect("one schema").expect("rows came");
        assert_eq!((alone[0].num_rows(), alone[1].num_rows()), (0, 1));
    }
}
