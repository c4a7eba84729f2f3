//! The convolution step.

use super::super::convolution::Convolution;
use super::super::feed_forward::INNER_EPS;
use super::super::kernel::depthwise::{self, convolve, pack_taps, taps_gradient};
use super::super::kernel::gemm::{Into, Matrix, multiply};
use super::super::kernel::maths::{fma, gelu, gelu_and_slope, sigmoid};
use super::super::kernel::pool::Buffer;
use super::super::kernel::rows::{map_and_sum_rows, map_rows, map_two_and_sum_rows, sum_rows};
use super::super::kernel::storage::values;
use super::super::op::{add_up, inverse_deviation, minibatch_moments};
use super::super::pass::{Across, BatchStatistics, Dropout, Pass};
use super::super::tape::Ready;
use super::{NormRecord, Room, factors, give};
use candle_core::{Device, Result, Tensor};
use std::sync::Arc;

/// What the backward pass needs: input and its norm, what goes into the gate, and what goes into the batch norm.
#[derive(Debug)]
pub(in super::super) struct ConvolutionRecord {
    x: Buffer,
    norm: NormRecord,
    expanded: Buffer,
    convolved: Buffer,
    mean: Vec<f32>,
    inverse: Vec<f32>,
    /// Rows of the whole minibatch, and who holds those that are not here.
    count: usize,
    across: Option<Arc<dyn Across>>,
    drop: Option<Dropout>,
}

impl Convolution {
    fn extents(&self, room: Room<'_>) -> Result<depthwise::Extents> {
        let (batch, positions, channels) = (room.extents.batch, room.extents.positions, room.extents.dim);
        Ok(depthwise::Extents { batch, positions, channels, kernel: self.depthwise.0.dim(2)? })
    }

    /// `x + Conv(x)`.
    pub(in super::super) fn run(
        &self,
        x: Buffer,
        room: Room<'_>,
        pass: &mut Pass,
    ) -> Result<(Buffer, ConvolutionRecord)> {
        let (dim, e) = (room.extents.dim, self.extents(room)?);
        let mut y = room.take(dim);
        let norm = self.norm.run(&x, &mut y)?;
        let mut expanded = room.take(2 * dim);
        multiply(
            &mut expanded,
            Matrix::new(&y, dim),
            Matrix::new(&values(self.expand.weight())?, dim).t(),
            Into::Replace,
        );
        let bias = self.expand.bias_values()?;
        map_rows(&mut expanded, 2 * dim, |_, row| {
            for (value, b) in row.iter_mut().zip(&bias[..]) {
                *value += b;
            }
        });
        gate(&expanded, dim, &mut y);

        let mut convolved = room.take(dim);
        let taps = pack_taps(&values(&self.depthwise.0)?, dim, e.kernel, false);
        convolve(&y, &taps, Some(&values(&self.depthwise.1)?), e, &mut convolved);
        let (mean, variance, count) = if pass.is_training() {
            let (mean, variance, count) = minibatch_moments(&convolved, dim, pass.across())?;
            pass.note(BatchStatistics {
                mean: Tensor::from_slice(&mean, dim, &Device::Cpu)?,
                variance: Tensor::from_slice(&variance, dim, &Device::Cpu)?,
                count,
            });
            (mean, variance, count)
        } else {
            let (mean, variance) = self.batch_norm.running()?;
            (mean, variance, room.extents.rows())
        };
        let inverse = inverse_deviation(&variance, INNER_EPS);
        let drop = pass.dropout(self.dropout).map(|drop| drop.per_example(e.positions));
        let across = pass.across().cloned();
        let record = ConvolutionRecord { x, norm, expanded, convolved, mean, inverse, count, across, drop };

        let mut active = room.take(dim);
        let (scale, shift) = self.batch_norm.affine(&record.mean, &record.inverse)?;
        map_rows(&mut active, dim, |row, out| {
            let x = &record.convolved[row * dim..][..dim];
            for (((out, x), scale), shift) in out.iter_mut().zip(x).zip(&scale).zip(&shift) {
                *out = gelu(fma(*x, *scale, *shift));
            }
        });
        multiply(
            &mut y,
            Matrix::new(&active, dim),
            Matrix::new(&values(self.project.weight())?, dim).t(),
            Into::Replace,
        );
        let bias = self.project.bias_values()?;
        map_rows(&mut y, dim, |row, y| {
            let (x, keep) = (&record.x[row * dim..][..dim], factors(record.drop, row));
            for (column, ((y, x), b)) in y.iter_mut().zip(x).zip(&bias[..]).enumerate() {
                *y = fma(keep.map_or(1.0, |keep| keep.at(column)), *y + b, *x);
            }
        });
        Ok((y, record))
    }

    /// The gradient of the input; batch statistics depend on it.
    pub(in super::super) fn back(
        &self,
        record: ConvolutionRecord,
        grad: Buffer,
        room: Room<'_>,
        ready: &mut Ready<'_>,
    ) -> Result<Buffer> {
        let dim = room.extents.dim;
        let mut dy = room.take(dim);
        let d_bias = map_and_sum_rows(&mut dy, dim, dim, |row, dy, total| {
            let (grad, keep) = (&grad[row * dim..][..dim], factors(record.drop, row));
            for (column, ((dy, g), total)) in dy.iter_mut().zip(grad).zip(total).enumerate() {
                *dy = keep.map_or(1.0, |keep| keep.at(column)) * g;
                *total += *dy;
            }
        });
        give(self.project.bias_var()?, d_bias, ready)?;
        let mut d_active = room.take(dim);
        multiply(
            &mut d_active,
            Matrix::new(&dy, dim),
            Matrix::new(&values(self.project.weight())?, dim),
            Into::Replace,
        );
        self.batch_norm_back(&record, &mut d_active, &mut dy, room, ready)?;
        let d_convolved = d_active;
        let d_expanded = self.depthwise_back(&record, &d_convolved, &mut dy, room, ready)?;
        drop(d_convolved);

        // `dy`: first the normalised input, then its gradient.
        self.norm.again(&record.x, &record.norm, &mut dy)?;
        let mut d_expand = vec![0.0; 2 * dim * dim];
        multiply(&mut d_expand, Matrix::new(&d_expanded, 2 * dim).t(), Matrix::new(&dy, dim), Into::Replace);
        give(self.expand.weight(), d_expand, ready)?;
        multiply(
            &mut dy,
            Matrix::new(&d_expanded, 2 * dim),
            Matrix::new(&values(self.expand.weight())?, dim),
            Into::Replace,
        );
        let mut dx = grad;
        self.norm.back(&record.x, &record.norm, &mut dy, &mut dx, ready)?;
        Ok(dx)
    }

    /// Turns the gradient of the active rows into that of the convolved ones; `dy` is the gradient of the projection.
    fn batch_norm_back(
        &self,
        record: &ConvolutionRecord,
        d_active: &mut [f32],
        dy: &mut [f32],
        room: Room<'_>,
        ready: &mut Ready<'_>,
    ) -> Result<()> {
        let dim = room.extents.dim;
        let (scale, shift) = self.batch_norm.affine(&record.mean, &record.inverse)?;
        let mut active = room.take(dim);
        let (mean, inverse) = (&record.mean[..], &record.inverse[..]);
        let mut totals = map_two_and_sum_rows((d_active, dim), (&mut active, dim), 2 * dim, |row, d, active, total| {
            let x = &record.convolved[row * dim..][..dim];
            let (d_weight, d_bias) = total.split_at_mut(dim);
            for (c, (d, active)) in d.iter_mut().zip(active).enumerate() {
                let (value, slope) = gelu_and_slope(fma(x[c], scale[c], shift[c]));
                *active = value;
                *d *= slope;
                d_weight[c] = fma(*d, (x[c] - mean[c]) * inverse[c], d_weight[c]);
                d_bias[c] += *d;
            }
        });
        let mut d_project = vec![0.0; dim * dim];
        multiply(&mut d_project, Matrix::new(dy, dim).t(), Matrix::new(&active, dim), Into::Replace);
        give(self.project.weight(), d_project, ready)?;
        give(self.batch_norm.weight(), totals[..dim].to_vec(), ready)?;
        give(self.batch_norm.bias(), totals[dim..].to_vec(), ready)?;
        add_up(&mut totals, 0, record.across.as_ref())?;
        let (along, sums) = totals.split_at(dim);
        let n = 1.0 / record.count as f32;
        map_rows(d_active, dim, |row, d| {
            let x = &record.convolved[row * dim..][..dim];
            for (c, d) in d.iter_mut().enumerate() {
                let normal = (x[c] - mean[c]) * inverse[c];
                *d = scale[c] * (*d - n * (sums[c] + normal * along[c]));
            }
        });
        Ok(())
    }

    /// The gradient of the expanded rows, given that of the convolved ones; `scratch` has room for rows.
    fn depthwise_back(
        &self,
        record: &ConvolutionRecord,
        grad: &[f32],
        scratch: &mut [f32],
        room: Room<'_>,
        ready: &mut Ready<'_>,
    ) -> Result<Buffer> {
        let (dim, e) = (room.extents.dim, self.extents(room)?);
        let (weight, bias) = &self.depthwise;
        gate(&record.expanded, dim, scratch);
        let d_weight = taps_gradient(scratch, grad, e);
        let d_bias = sum_rows(room.extents.rows(), dim, |row, total| {
            for (total, g) in total.iter_mut().zip(&grad[row * dim..]) {
                *total += g;
            }
        });
        // The gradient of the input is the convolution of the gradient with the kernel turned round.
        let taps = pack_taps(&values(weight)?, dim, e.kernel, true);
        convolve(grad, &taps, None, e, scratch);
        give(weight, d_weight, ready)?;
        give(bias, d_bias, ready)?;
        let mut d_expanded = room.take(2 * dim);
        let d_bias = map_and_sum_rows(&mut d_expanded, 2 * dim, 2 * dim, |row, out, total| {
            let (value, gate) = record.expanded[2 * row * dim..][..2 * dim].split_at(dim);
            let (d_value, d_gate) = out.split_at_mut(dim);
            let grad = &scratch[row * dim..][..dim];
            for ((((dv, dg), value), gate), g) in d_value.iter_mut().zip(d_gate).zip(value).zip(gate).zip(grad) {
                let s = sigmoid(*gate);
                *dv = g * s;
                *dg = g * value * s * (1.0 - s);
            }
            for (total, d) in total.iter_mut().zip(out) {
                *total += *d;
            }
        });
        give(self.expand.bias_var()?, d_bias, ready)?;
        Ok(d_expanded)
    }
}

/// The gated linear unit of rows of `2 dim` values.
pub(in super::super) fn gate(expanded: &[f32], dim: usize, out: &mut [f32]) {
    map_rows(out, dim, |row, out| {
        let (value, gate) = expanded[2 * row * dim..][..2 * dim].split_at(dim);
        for ((out, value), gate) in out.iter_mut().zip(value).zip(gate) {
            *out = value * sigmoid(*gate);
        }
    });
}
