//! Running one operator by hand, in tests.

use arrow::array::{RecordBatch, UInt64Array};
use omar_schemas::{AudioSpec, Edge, Origin, Split, Track, TrackId, TrackSpec};

use crate::error::Rejection;
use crate::ops::decode::Block;
use crate::stage::{Operator, Output, Progress, Stage, StageContext};

/// Keeps what an operator gives.
#[derive(Debug, Default)]
pub(crate) struct Collect {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) rejections: Vec<Rejection>,
}

impl Output for Collect {
    fn emit(&mut self, batch: RecordBatch) {
        self.batches.push(batch);
    }

    fn reject(&mut self, _: TrackId, reason: Rejection) {
        self.rejections.push(reason);
    }
}

/// Starts a stage with a seed.
pub(crate) fn start(stage: &impl Stage, seed: u64) -> Box<dyn Operator> {
    let context = StageContext { seed, ..StageContext::detached("test") };
    stage.start(&context).expect("it starts")
}

/// Hands the batches of one recording to an operator and collects what comes of them.
pub(crate) fn run(operator: &mut dyn Operator, batches: &[RecordBatch]) -> Collect {
    let mut out = Collect::default();
    for batch in batches {
        let mut progress = operator.push(0, batch, &mut out).expect("it goes on");
        while progress == Progress::Pending {
            progress = operator.resume(&mut out).expect("it goes on");
        }
    }
    operator.flush(&mut out).expect("it ends");
    out
}

pub(crate) fn origin(name: &str) -> Origin {
    Origin { track_id: TrackId::of(name, 0), path: name.to_owned(), split: Split::Train }
}

/// A batch of a `track` edge.
pub(crate) fn track(root: &str, path: &str) -> RecordBatch {
    let schema = Track::schema(&TrackSpec { root: root.to_owned() });
    let mut columns = origin(path).columns(1);
    columns.push(std::sync::Arc::new(UInt64Array::from(vec![0])));
    RecordBatch::try_new(schema, columns).expect("the columns of the edge")
}

/// The samples of a track as an `audio` edge, in blocks of `block_len`.
pub(crate) fn audio(name: &str, samples: &[f32], sample_rate: u32, block_len: usize) -> Vec<RecordBatch> {
    let schema = omar_schemas::Audio::schema(&AudioSpec { sample_rate: Some(sample_rate) });
    let mut start = 0;
    let blocks = samples.chunks(block_len).map(|block| {
        let declared_len = Some(samples.len() as u64);
        let block = Block { sample_rate, start, declared_len, samples: block.to_vec() };
        start += block.samples.len() as u64;
        block.into_batch(&schema, &origin(name)).expect("the columns of the edge")
    });
    blocks.collect()
}
