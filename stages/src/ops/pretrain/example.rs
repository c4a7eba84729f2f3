//! From rows of the two inputs to what the trainer takes.

use arrow::array::RecordBatch;
use arrow::datatypes::{Float32Type, UInt16Type};
use candle_core::{Device, Tensor};
use omar_schemas::fixed_values;

use super::Plan;
use crate::error::StageError;
use crate::train::{CropKey, Minibatch};

/// One crop, ready for the model.
#[derive(Debug)]
pub(super) struct Example {
    /// `(positions, patch_dim)`.
    pub(super) patches: Vec<f32>,
    /// `(positions, streams)`.
    pub(super) tokens: Vec<u32>,
    pub(super) key: CropKey,
}

impl Plan {
    /// Patches of all views side by side, and tokens of all streams side by side.
    pub(super) fn example(
        &self,
        input: &RecordBatch,
        targets: &RecordBatch,
        row: usize,
        key: CropKey,
    ) -> Result<Example, StageError> {
        let (positions, dim, streams) = self.shape();
        let mut patches = vec![0.0; positions * dim];
        let mut at = 0;
        for (name, shape) in &self.views {
            let features = fixed_values::<Float32Type>(input, name, row)?;
            let width = shape.values();
            let mut cut = vec![0.0; positions * width];
            shape.cut_into(features, &mut cut).map_err(|error| StageError::Failed(error.to_string()))?;
            for (to, from) in patches.chunks_exact_mut(dim).zip(cut.chunks_exact(width)) {
                to[at..at + width].copy_from_slice(from);
            }
            at += width;
        }
        let mut tokens = vec![0; positions * streams];
        let mut at = 0;
        for (name, codebooks) in &self.streams {
            let codes = fixed_values::<UInt16Type>(targets, name, row)?;
            debug_assert_eq!(codes.len(), self.target_positions * codebooks);
            for (to, from) in tokens.chunks_exact_mut(streams).zip(codes.chunks_exact(*codebooks)) {
                for (to, from) in to[at..].iter_mut().zip(from) {
                    *to = u32::from(*from);
                }
            }
            at += codebooks;
        }
        Ok(Example { patches, tokens, key })
    }

    /// Positions, values per patch, and streams.
    pub(super) fn shape(&self) -> (usize, usize, usize) {
        let model = &self.trainer.model;
        (self.positions, model.patch_dim, model.streams)
    }

    /// Examples side by side.
    pub(super) fn minibatch(&self, examples: &[Example]) -> Result<Minibatch, StageError> {
        let (positions, dim, streams) = self.shape();
        let patches: Vec<f32> = examples.iter().flat_map(|e| e.patches.iter().copied()).collect();
        let tokens: Vec<u32> = examples.iter().flat_map(|e| e.tokens.iter().copied()).collect();
        Ok(Minibatch {
            patches: Tensor::from_vec(patches, (examples.len(), positions, dim), &Device::Cpu)?,
            tokens: Tensor::from_vec(tokens, (examples.len(), positions, streams), &Device::Cpu)?,
            keys: examples.iter().map(|example| example.key).collect(),
        })
    }
}
