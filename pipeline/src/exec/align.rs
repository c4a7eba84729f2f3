//! Brings the inputs of a several-input node into step: the same crops in the same rows.

use std::collections::VecDeque;

use arrow::array::{RecordBatch, UInt32Array};
use omar_schemas::{SchemaError, column};

/// Rows of one recording that wait for their counterparts at the other ports. Crops arrive in rising order at every
/// port, so the smaller of two different heads has no counterpart.
#[derive(Debug, Default)]
pub(crate) struct Align {
    ports: Vec<VecDeque<RecordBatch>>,
}

impl Align {
    pub(crate) fn new(ports: usize) -> Self {
        Self { ports: (0..ports).map(|_| VecDeque::new()).collect() }
    }

    /// Takes a batch and returns what is complete now: one batch per port, equally long, with the same crops.
    pub(crate) fn push(&mut self, port: usize, batch: RecordBatch) -> Result<Vec<Vec<RecordBatch>>, SchemaError> {
        if self.ports.len() == 1 {
            return Ok(vec![vec![batch]]);
        }
        if batch.num_rows() > 0 {
            self.ports[port].push_back(batch);
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

    use super::{Align, crops};

    fn batch(crops: &[u32]) -> RecordBatch {
        RecordBatch::try_from_iter([("crop_ix", Arc::new(UInt32Array::from(crops.to_vec())) as _)]).expect("a column")
    }

    #[test]
    fn rows_meet_whatever_the_batches_and_orphans_are_dropped() {
        let mut align = Align::new(2);
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
}
