//! The two passes of training, block by block.
//!
//! The backward pass goes from block to block instead of through one graph: gradients of a block are complete, and can
//! be on their way to other machines, while those of the blocks before it are still computed; and what a block keeps for
//! its backward pass can be dropped and computed a second time.

use super::fused::Records;
use super::pass::Pass;
use candle_core::{Result, Tensor, Var};

/// Called with every parameter and its gradient, as soon as it is complete.
pub type Ready<'a> = &'a mut dyn FnMut(&Var, Tensor) -> Result<()>;

/// What stays in memory between the two passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Everything that the backward pass needs.
    #[default]
    Everything,
    /// The input of every block; the rest is computed a second time, one block at a time.
    Inputs,
}

/// What the forward pass through a conformer leaves for the backward pass.
#[derive(Debug)]
pub struct Tape(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    /// By operations that candle differentiates.
    Graphs(Graphs),
    /// By the blocks' own backward passes.
    Records(Records),
}

/// One graph per block.
#[derive(Debug)]
pub(crate) struct Graphs {
    keep: Keep,
    records: Vec<Record>,
}

/// One block's part.
#[derive(Debug)]
struct Record {
    input: Var,
    /// The output with its graph, or how the pass stood before the block.
    output: std::result::Result<Tensor, Pass>,
}

impl Graphs {
    pub(crate) fn new(keep: Keep) -> Self {
        Self { keep, records: Vec::new() }
    }

    /// The output of `forward`, detached.
    pub(crate) fn record(
        &mut self,
        x: &Tensor,
        pass: &mut Pass,
        forward: impl Fn(&Tensor, &mut Pass) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let before = pass.again();
        let input = Var::from_tensor(x)?;
        match self.keep {
            Keep::Everything => {
                let output = forward(&input, pass)?;
                let y = output.detach();
                self.records.push(Record { input, output: Ok(output) });
                Ok(y)
            }
            Keep::Inputs => {
                let y = forward(&input.as_detached_tensor(), pass)?.detach();
                self.records.push(Record { input, output: Err(before) });
                Ok(y)
            }
        }
    }

    /// The gradient of the input of the last record, which is taken off the tape; those of `parameters` go to `ready`.
    pub(crate) fn backward(
        &mut self,
        grad: &Tensor,
        parameters: &[Var],
        forward: impl Fn(&Tensor, &mut Pass) -> Result<Tensor>,
        ready: Ready<'_>,
    ) -> Result<Tensor> {
        let Some(Record { input, output }) = self.records.pop() else {
            candle_core::bail!("the tape holds fewer blocks than the model has")
        };
        let output = match output {
            Ok(output) => output,
            Err(mut pass) => forward(&input, &mut pass)?,
        };
        // A scalar whose derivative by the output is `grad`.
        let mut store = (&output * grad)?.sum_all()?.backward()?;
        drop(output);
        for var in parameters {
            if let Some(grad) = store.remove(var) {
                ready(var, grad)?;
            }
        }
        match store.remove(&input) {
            Some(grad) => Ok(grad),
            None => input.zeros_like(),
        }
    }
}
