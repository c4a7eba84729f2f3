//! How well something is predicted.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};

/// One row per task, representation and metric.
///
/// Columns: `task`, what is predicted; `input`, from what; `layer`, which layer or view of it; `metric`; `value`, on the
/// `test` split; `valid`, the same on the `valid` split, by which anything was chosen; `chance`, what knowing nothing but
/// the labels of the `train` split reaches on `test`; `n_train` and `n_test`, examples that were fitted and scored; `l2`,
/// the chosen weight of the penalty; `seed`.
#[derive(Debug)]
pub enum Scores {}

/// Constants of a [`Scores`] edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoresSpec {
    /// Name of the representation.
    pub input: String,
    /// Predictions per second of audio; `None` where a recording has one.
    pub rate: Option<f64>,
}

impl Edge for Scores {
    const NAME: &'static str = "score";
    const VERSION: u16 = 1;
    type Spec = ScoresSpec;

    fn fields(_: &ScoresSpec) -> Vec<Field> {
        let word = |name| required(name, DataType::Utf8);
        let number = |name| required(name, DataType::Float64);
        let count = |name| required(name, DataType::UInt64);
        vec![
            word("task"),
            word("input"),
            word("layer"),
            word("metric"),
            number("value"),
            number("valid"),
            number("chance"),
            count("n_train"),
            count("n_test"),
            number("l2"),
            count("seed"),
        ]
    }
}
