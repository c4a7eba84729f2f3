//! The feed-forward half-step.

use super::super::feed_forward::FeedForward;
use super::super::kernel::gemm::{Into, Matrix, multiply};
use super::super::kernel::maths::{fma, gelu, gelu_and_slope};
use super::super::kernel::pool::Buffer;
use super::super::kernel::rows::{map_and_sum_rows, map_rows, map_two_and_sum_rows};
use super::super::kernel::storage::values;
use super::super::pass::{Dropout, Pass};
use super::super::tape::Ready;
use super::{NormRecord, Room, factors, give};
use candle_core::Result;

/// What the backward pass needs: input, its norm, and the wide layer before its activation.
#[derive(Debug)]
pub(in super::super) struct FeedForwardRecord {
    x: Buffer,
    norm: NormRecord,
    hidden: Buffer,
    drops: [Option<Dropout>; 2],
}

impl FeedForward {
    /// `x + residual_factor FF(x)`.
    pub(in super::super) fn run(
        &self,
        x: Buffer,
        room: Room<'_>,
        pass: &mut Pass,
    ) -> Result<(Buffer, FeedForwardRecord)> {
        let positions = room.extents.positions;
        let drops = [(); 2].map(|()| pass.dropout(self.dropout).map(|drop| drop.per_example(positions)));
        let dim = room.extents.dim;
        let mut y = room.take(dim);
        let norm = self.norm.run(&x, &mut y)?;

        let (wide, bias) = (values(self.wide.weight())?, self.wide.bias_values()?);
        let width = bias.len();
        let mut hidden = room.take(width);
        multiply(&mut hidden, Matrix::new(&y, dim), Matrix::new(&wide, dim).t(), Into::Replace);
        map_rows(&mut hidden, width, |_, hidden| {
            for (hidden, b) in hidden.iter_mut().zip(&bias[..]) {
                *hidden += b;
            }
        });
        let mut active = room.take(width);
        self.activate(&hidden, drops[0], &mut active);

        let (narrow, bias) = (values(self.narrow.weight())?, self.narrow.bias_values()?);
        multiply(&mut y, Matrix::new(&active, width), Matrix::new(&narrow, width).t(), Into::Replace);
        let factor = self.residual_factor as f32;
        map_rows(&mut y, dim, |row, y| {
            let x = &x[row * dim..][..dim];
            match factors(drops[1], row) {
                Some(keep) => {
                    for (column, ((y, x), b)) in y.iter_mut().zip(x).zip(&bias[..]).enumerate() {
                        *y = fma(factor * keep.at(column), *y + b, *x);
                    }
                }
                None => {
                    for ((y, x), b) in y.iter_mut().zip(x).zip(&bias[..]) {
                        *y = fma(factor, *y + b, *x);
                    }
                }
            }
        });
        Ok((y, FeedForwardRecord { x, norm, hidden, drops }))
    }

    /// `dropout(gelu(hidden))`.
    fn activate(&self, hidden: &[f32], drop: Option<Dropout>, out: &mut [f32]) {
        let width = self.wide.outputs();
        map_rows(out, width, |row, out| {
            let hidden = &hidden[row * width..][..width];
            match factors(drop, row) {
                Some(keep) => {
                    for (column, (out, h)) in out.iter_mut().zip(hidden).enumerate() {
                        *out = keep.at(column) * gelu(*h);
                    }
                }
                None => {
                    for (out, h) in out.iter_mut().zip(hidden) {
                        *out = gelu(*h);
                    }
                }
            }
        });
    }

    /// The gradient of the input.
    pub(in super::super) fn back(
        &self,
        record: FeedForwardRecord,
        grad: Buffer,
        room: Room<'_>,
        ready: &mut Ready<'_>,
    ) -> Result<Buffer> {
        let FeedForwardRecord { x, norm, mut hidden, drops } = record;
        let dim = room.extents.dim;
        let factor = self.residual_factor as f32;
        let mut dy = room.take(dim);
        let d_bias = map_and_sum_rows(&mut dy, dim, dim, |row, dy, total| {
            let grad = &grad[row * dim..][..dim];
            let keep = factors(drops[1], row);
            for (column, ((dy, g), total)) in dy.iter_mut().zip(grad).zip(total).enumerate() {
                *dy = factor * keep.map_or(1.0, |keep| keep.at(column)) * g;
                *total += *dy;
            }
        });
        give(self.narrow.bias_var()?, d_bias, ready)?;

        let width = self.wide.outputs();
        let mut dh = room.take(width);
        multiply(&mut dh, Matrix::new(&dy, dim), Matrix::new(&values(self.narrow.weight())?, width), Into::Replace);
        // The hidden layer becomes the active one, and its gradient that of the hidden one.
        let d_bias =
            map_two_and_sum_rows(
                (&mut dh, width),
                (&mut hidden, width),
                width,
                |row, dh, hidden, total| match factors(drops[0], row) {
                    Some(keep) => {
                        for (column, ((dh, h), total)) in dh.iter_mut().zip(hidden).zip(total).enumerate() {
                            let (factor, (value, slope)) = (keep.at(column), gelu_and_slope(*h));
                            *h = factor * value;
                            *dh *= factor * slope;
                            *total += *dh;
                        }
                    }
                    None => {
                        for ((dh, h), total) in dh.iter_mut().zip(hidden).zip(total) {
                            let (value, slope) = gelu_and_slope(*h);
                            *h = value;
                            *dh *= slope;
                            *total += *dh;
                        }
                    }
                },
            );
        let mut d_narrow = vec![0.0; dim * width];
        multiply(&mut d_narrow, Matrix::new(&dy, dim).t(), Matrix::new(&hidden, width), Into::Replace);
        drop(hidden);
        give(self.narrow.weight(), d_narrow, ready)?;
        give(self.wide.bias_var()?, d_bias, ready)?;

        // `dy` has done its work: first the normalised input, then its gradient.
        self.norm.again(&x, &norm, &mut dy)?;
        let mut d_wide = vec![0.0; width * dim];
        multiply(&mut d_wide, Matrix::new(&dh, width).t(), Matrix::new(&dy, dim), Into::Replace);
        give(self.wide.weight(), d_wide, ready)?;
        multiply(&mut dy, Matrix::new(&dh, width), Matrix::new(&values(self.wide.weight())?, dim), Into::Replace);
        let mut dx = grad;
        self.norm.back(&x, &norm, &mut dy, &mut dx, ready)?;
        Ok(dx)
    }
}
