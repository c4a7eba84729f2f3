//! What an evaluation found.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};

/// One row per representation, layer, metric, class, split, fold and seed.
///
/// Columns: `task`; `dataset`; `input`, name of the representation; `layer`, which layer or view of it; `protocol`,
/// `standard` or `published`; `metric`; `class`, null for figures over all classes; `split`, `valid` or `test`; `fold`, null
/// where recordings are split once; `seed`, of the repeat; `value`; `low` and `high`, a 95 % interval by bootstrap over recordings, null where a figure is no mean over
/// recordings; `n`, recordings behind the value; `selected`, whether the `valid` split chose this layer.
#[derive(Debug)]
pub enum Results {}

/// Constants of a [`Results`] edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultsSpec {
    /// What is predicted.
    pub task: String,
    /// Name of the representation.
    pub input: String,
    /// The metric that the task is judged by.
    pub metric: String,
    /// Whether smaller values of it are better.
    pub smaller_is_better: bool,
}

impl Edge for Results {
    const NAME: &'static str = "result";
    const VERSION: u16 = 2;
    type Spec = ResultsSpec;

    fn fields(_: &ResultsSpec) -> Vec<Field> {
        let word = |name| required(name, DataType::Utf8);
        vec![
            word("task"),
            word("dataset"),
            word("input"),
            word("layer"),
            word("protocol"),
            word("metric"),
            Field::new("class", DataType::Utf8, true),
            word("split"),
            Field::new("fold", DataType::UInt64, true),
            required("seed", DataType::UInt64),
            required("value", DataType::Float64),
            Field::new("low", DataType::Float64, true),
            Field::new("high", DataType::Float64, true),
            required("n", DataType::UInt64),
            required("selected", DataType::Boolean),
        ]
    }
}
