//! What a corpus looks like through a view.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};

/// One row per view: what standardisation needs to know about a corpus.
///
/// Columns: `view`; `crops` and `frames` that were seen; `mean`, the mean over crops of a crop's mean; `std`, the mean
/// over crops of a crop's standard deviation (the two numbers that the published models use); `min` and `max`;
/// `bin_mean` and `bin_std`, mean and standard deviation of every bin over all frames.
#[derive(Debug)]
pub enum Statistics {}

/// Constants of a [`Statistics`] edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsSpec {
    /// Rate of the audio in Hz.
    pub sample_rate: u32,
}

impl Edge for Statistics {
    const NAME: &'static str = "statistics";
    const VERSION: u16 = 1;
    type Spec = StatisticsSpec;

    fn fields(_: &StatisticsSpec) -> Vec<Field> {
        let number = |name| required(name, DataType::Float64);
        let count = |name| required(name, DataType::UInt64);
        let list = DataType::List(Arc::new(Field::new("item", DataType::Float64, false)));
        vec![
            required("view", DataType::Utf8),
            count("crops"),
            count("frames"),
            number("mean"),
            number("std"),
            number("min"),
            number("max"),
            required("bin_mean", list.clone()),
            required("bin_std", list),
        ]
    }
}
