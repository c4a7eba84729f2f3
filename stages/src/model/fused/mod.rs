//! The conformer's blocks on a CPU, forward and backward, over buffers that are used again.
//!
//! The same mathematics as by the operations of `op`, with what separate operations cannot share: a pass over memory does
//! bias, activation and dropout together, gradients are multiplied where they are added, and what a backward pass needs
//! is either kept or cheap to compute a second time. A block's forward pass leaves a record; without one it is an
//! evaluation. Tests hold both ways to the same numbers.

mod attention;
mod block;
mod convolution;
mod feed_forward;
mod norm;

pub(super) use block::{Records, back, evaluate, record};
pub(super) use convolution::gate;

use norm::NormRecord;

use super::kernel::pool::{Buffer, Pool};
use super::pass::{Dropout, Factors};
use super::tape::Ready;
use candle_core::{Device, Result, Tensor, Var};

/// What the steps of a block work on: rows of `dim` values, `positions` per example.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extents {
    pub(super) batch: usize,
    pub(super) positions: usize,
    pub(super) dim: usize,
}

impl Extents {
    fn rows(self) -> usize {
        self.batch * self.positions
    }
}

/// The surroundings of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room<'a> {
    pub(super) pool: &'a Pool,
    pub(super) extents: Extents,
}

impl Room<'_> {
    /// A buffer of rows of `width` values, whatever they are.
    pub(super) fn take(&self, width: usize) -> Buffer {
        self.pool.take(self.extents.rows() * width)
    }
}

/// Hands a parameter's gradient on.
fn give(var: &Var, gradient: Vec<f32>, ready: &mut Ready<'_>) -> Result<()> {
    let gradient = Tensor::from_vec(gradient, var.shape(), &Device::Cpu)?;
    ready(var, gradient)
}

/// The factors of a row where there is dropout.
#[inline(always)]
fn factors(drop: Option<Dropout>, row: usize) -> Option<Factors> {
    drop.map(|drop| drop.row(row))
}

#[cfg(test)]
mod tests;
