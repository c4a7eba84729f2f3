//! A whole block, and the stack of them.

use super::super::conformer::Block;
use super::super::frozen::FrozenBlock;
use super::super::kernel::pool::{Buffer, Pool};
use super::super::kernel::storage::values;
use super::super::pass::Pass;
use super::super::tape::{Keep, Ready};
use super::attention::AttentionRecord;
use super::convolution::ConvolutionRecord;
use super::feed_forward::FeedForwardRecord;
use super::{Extents, NormRecord, Room};
use candle_core::{Device, Result, Tensor, bail};

/// What a block's backward pass needs.
#[derive(Debug)]
struct BlockRecord {
    ff1: FeedForwardRecord,
    attention: AttentionRecord,
    convolution: ConvolutionRecord,
    ff2: FeedForwardRecord,
    /// The sum before the last norm.
    sum: Buffer,
    norm: NormRecord,
}

/// What the forward pass through a stack leaves.
#[derive(Debug)]
pub(in super::super) struct Records {
    extents: Extents,
    blocks: Vec<Kept>,
}

#[derive(Debug)]
enum Kept {
    Record(Box<BlockRecord>),
    /// The input, and how the pass stood before the block.
    Input(Buffer, Pass),
}

impl Block {
    fn run(&self, x: Buffer, room: Room<'_>, pass: &mut Pass) -> Result<(Buffer, BlockRecord)> {
        let (x, ff1) = self.ff1.run(x, room, pass)?;
        let (x, attention) = self.attention.run(x, room, pass)?;
        let (x, convolution) = self.convolution.run(x, room, pass)?;
        let (sum, ff2) = self.ff2.run(x, room, pass)?;
        let mut y = room.take(room.extents.dim);
        let norm = self.norm.run(&sum, &mut y)?;
        Ok((y, BlockRecord { ff1, attention, convolution, ff2, sum, norm }))
    }

    fn back(&self, record: BlockRecord, mut grad: Buffer, room: Room<'_>, ready: &mut Ready<'_>) -> Result<Buffer> {
        let BlockRecord { ff1, attention, convolution, ff2, sum, norm } = record;
        let mut d_sum = room.take(room.extents.dim);
        d_sum.fill(0.0);
        self.norm.back(&sum, &norm, &mut grad, &mut d_sum, ready)?;
        drop((grad, sum));
        let grad = self.ff2.back(ff2, d_sum, room, ready)?;
        let grad = self.convolution.back(convolution, grad, room, ready)?;
        let grad = self.attention.back(attention, grad, room, ready)?;
        self.ff1.back(ff1, grad, room, ready)
    }
}

/// The values of `x (batch, positions, dim)` in a buffer.
fn enter(x: &Tensor, pool: &Pool) -> Result<(Buffer, Extents)> {
    let (batch, positions, dim) = x.dims3()?;
    let x = x.contiguous()?;
    Ok((pool.copy(&values(&x)?), Extents { batch, positions, dim }))
}

fn tensor(x: Vec<f32>, Extents { batch, positions, dim }: Extents) -> Result<Tensor> {
    Tensor::from_vec(x, (batch, positions, dim), &Device::Cpu)
}

/// Outputs of all blocks to `each`, without a record; the last one is given back.
pub(in super::super) fn evaluate(
    blocks: &[Block],
    x: &Tensor,
    pool: &Pool,
    mut each: impl FnMut(Tensor),
    wanted: bool,
) -> Result<Tensor> {
    let (mut x, extents) = enter(x, pool)?;
    for block in blocks {
        x = FrozenBlock::new(block)?.run(&x, Room { pool, extents });
        if wanted {
            each(tensor(x.to_vec(), extents)?);
        }
    }
    tensor(x.into_vec(), extents)
}

/// The output of the last block, and what [`back`] needs.
pub(in super::super) fn record(
    blocks: &[Block],
    x: &Tensor,
    pool: &Pool,
    pass: &mut Pass,
    keep: Keep,
) -> Result<(Tensor, Records)> {
    let (mut x, extents) = enter(x, pool)?;
    let room = Room { pool, extents };
    let mut records = Records { extents, blocks: Vec::with_capacity(blocks.len()) };
    for block in blocks {
        let again = (keep == Keep::Inputs).then(|| Kept::Input(pool.copy(&x), pass.again()));
        let (y, record) = block.run(x, room, pass)?;
        records.blocks.push(again.unwrap_or_else(|| Kept::Record(Box::new(record))));
        x = y;
    }
    Ok((tensor(x.into_vec(), extents)?, records))
}

/// The gradient of the input; those of parameters go to `ready`, last block first.
pub(in super::super) fn back(
    blocks: &[Block],
    records: Records,
    grad: &Tensor,
    pool: &Pool,
    mut ready: Ready<'_>,
) -> Result<Tensor> {
    let (mut grad, extents) = enter(grad, pool)?;
    let Records { extents: recorded, blocks: mut kept } = records;
    let same = (recorded.batch, recorded.positions, recorded.dim) == (extents.batch, extents.positions, extents.dim);
    if !same || kept.len() != blocks.len() {
        bail!("a gradient of {extents:?} for a tape of {} blocks and {recorded:?}", kept.len());
    }
    let room = Room { pool, extents };
    for block in blocks.iter().rev() {
        let record = match kept.pop() {
            Some(Kept::Record(record)) => *record,
            Some(Kept::Input(x, mut pass)) => block.run(x, room, &mut pass)?.1,
            None => bail!("the tape holds fewer blocks than the model has"),
        };
        grad = block.back(record, grad, room, &mut ready)?;
    }
    tensor(grad.into_vec(), extents)
}
