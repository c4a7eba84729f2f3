//! What training logs.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};

/// One row per logged step.
///
/// Columns: `step`; `split` (`train` rows describe one minibatch, `valid` rows the held-out crops); `loss`, in nats;
/// `accuracy` over masked tokens, 0..1; `stream_accuracy`, the same per stream; `unigram` and `stream_unigram`, what the
/// best constant answer would reach on the same tokens (null and empty on `train`); `lr`; `grad_norm` (null on `valid`);
/// `crops`, training crops consumed so far; `elapsed_s` of training in this process.
///
/// `unigram` is the share of the masked held-out tokens that have the most frequent code of their stream, counted among
/// these very tokens: no answer that does not look at the music can be more accurate, so what a model has learned is
/// what its accuracy exceeds this by. Where half of all tokens share a code, 50 % of accuracy is nothing.
#[derive(Debug)]
pub enum Metrics {}

/// Constants of a [`Metrics`] edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsSpec {
    /// Names of the streams, `view/codebook`.
    pub streams: Vec<String>,
    /// Steps until training is complete.
    pub steps: u64,
    /// Accuracy of guessing: 1 / codebook_size.
    pub chance: f64,
}

impl Edge for Metrics {
    const NAME: &'static str = "metrics";
    const VERSION: u16 = 2;
    type Spec = MetricsSpec;

    fn fields(_: &MetricsSpec) -> Vec<Field> {
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        vec![
            required("step", DataType::UInt64),
            required("split", DataType::Utf8),
            required("loss", DataType::Float64),
            required("accuracy", DataType::Float64),
            required("stream_accuracy", DataType::List(item.clone())),
            Field::new("unigram", DataType::Float64, true),
            required("stream_unigram", DataType::List(item)),
            required("lr", DataType::Float64),
            Field::new("grad_norm", DataType::Float64, true),
            required("crops", DataType::UInt64),
            required("elapsed_s", DataType::Float64),
        ]
    }
}
