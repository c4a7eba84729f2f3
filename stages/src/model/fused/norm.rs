//! Layer normalisation.

use super::super::kernel::maths::{dot_centred, fma, moments, sum, vectorized};
use super::super::kernel::rows::map_two_and_sum_rows;
use super::super::kernel::storage::values;
use super::super::layers::LayerNorm;
use super::super::tape::Ready;
use super::give;
use candle_core::Result;
use rayon::prelude::*;

/// Rows of one task.
const ROWS: usize = 32;

/// Mean and inverse deviation of every row.
#[derive(Debug)]
pub(in super::super) struct NormRecord(Vec<(f32, f32)>);

impl LayerNorm {
    /// Normalises the rows of `x` into `out`.
    pub(in super::super) fn run(&self, x: &[f32], out: &mut [f32]) -> Result<NormRecord> {
        let (weight, bias) = (values(self.weight())?, values(self.bias())?);
        let (weight, bias): (&[f32], &[f32]) = (&weight, &bias);
        let (channels, eps) = (weight.len(), self.eps() as f32);
        let mut record = vec![(0.0, 0.0); x.len() / channels];
        let tasks =
            out.par_chunks_mut(ROWS * channels).zip(x.par_chunks(ROWS * channels)).zip(record.par_chunks_mut(ROWS));
        tasks.for_each(|((out, x), record)| {
            vectorized(|| {
                for ((out, x), record) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).zip(record) {
                    let (mean, variance) = moments(x);
                    let inverse = 1.0 / (variance + eps).sqrt();
                    *record = (mean, inverse);
                    normalise(out, x, (mean, inverse), weight, bias);
                }
            });
        });
        Ok(NormRecord(record))
    }

    /// The rows that [`LayerNorm::run`] gave, once more.
    pub(in super::super) fn again(&self, x: &[f32], record: &NormRecord, out: &mut [f32]) -> Result<()> {
        let (weight, bias) = (values(self.weight())?, values(self.bias())?);
        let (weight, bias): (&[f32], &[f32]) = (&weight, &bias);
        let channels = weight.len();
        let tasks =
            out.par_chunks_mut(ROWS * channels).zip(x.par_chunks(ROWS * channels)).zip(record.0.par_chunks(ROWS));
        tasks.for_each(|((out, x), record)| {
            vectorized(|| {
                for ((out, x), record) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).zip(record) {
                    normalise(out, x, *record, weight, bias);
                }
            });
        });
        Ok(())
    }

    /// `dx += gradient of x`, given that of the result in `grad`, which is overwritten.
    pub(in super::super) fn back(
        &self,
        x: &[f32],
        record: &NormRecord,
        grad: &mut [f32],
        dx: &mut [f32],
        ready: &mut Ready<'_>,
    ) -> Result<()> {
        let totals = {
            let weight = values(self.weight())?;
            let weight: &[f32] = &weight;
            let channels = weight.len();
            map_two_and_sum_rows((grad, channels), (dx, channels), 2 * channels, |row, g, dx, total| {
                let (x, (mean, inverse)) = (&x[row * channels..][..channels], record.0[row]);
                let (d_weight, d_bias) = total.split_at_mut(channels);
                for ((((g, x), w), dw), db) in g.iter_mut().zip(x).zip(weight).zip(d_weight).zip(d_bias) {
                    *dw = fma(*g, (x - mean) * inverse, *dw);
                    *db += *g;
                    *g *= w;
                }
                let n = channels as f32;
                let mean_g = sum(g) / n;
                let along = dot_centred(g, x, mean) * inverse / n;
                for ((dx, g), x) in dx.iter_mut().zip(g.iter()).zip(x) {
                    *dx += inverse * (*g - mean_g - (x - mean) * inverse * along);
                }
            })
        };
        let (d_weight, d_bias) = totals.split_at(totals.len() / 2);
        give(self.weight(), d_weight.to_vec(), ready)?;
        give(self.bias(), d_bias.to_vec(), ready)
    }
}

#[inline(always)]
fn normalise(out: &mut [f32], x: &[f32], (mean, inverse): (f32, f32), weight: &[f32], bias: &[f32]) {
    for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = fma((x - mean) * inverse, *w, *b);
    }
}
