//! The hidden states that were asked for, as they come by.

use candle_core::{Result, Tensor, bail};

/// Keeps hidden states, in the order in which they were asked for.
pub(in super::super) struct Kept<'a> {
    wanted: &'a [usize],
    states: Vec<Option<Tensor>>,
}

impl<'a> Kept<'a> {
    pub(in super::super) fn new(wanted: &'a [usize]) -> Self {
        Self { wanted, states: vec![None; wanted.len()] }
    }

    /// Hidden state `layer` has come by.
    pub(in super::super) fn offer(&mut self, layer: usize, state: &Tensor) {
        for (slot, wanted) in self.states.iter_mut().zip(self.wanted) {
            if *wanted == layer {
                *slot = Some(state.clone());
            }
        }
    }

    /// The last that was asked for.
    pub(in super::super) fn deepest(&self) -> usize {
        self.wanted.iter().copied().max().unwrap_or(0)
    }

    pub(in super::super) fn finish(self) -> Result<Vec<Tensor>> {
        let mut states = Vec::with_capacity(self.wanted.len());
        for (state, layer) in self.states.into_iter().zip(self.wanted) {
            let Some(state) = state else { bail!("hidden state {layer} was asked for and not loaded") };
            states.push(state);
        }
        Ok(states)
    }
}
