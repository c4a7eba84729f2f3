//! The loss of masked positions, with the gradient of the head.

#[cfg(feature = "cuda")]
use crate::model::cuda;
use crate::model::kernel::cross_entropy::{Totals, cross_entropy};
use crate::model::kernel::storage::slice_mut;
use crate::model::{Form, op};
use candle_core::{CpuStorage, D, DType, InplaceOp1, Layout, Result, Tensor, bail};
use std::sync::{Mutex, PoisonError};

/// Logits that exist at a time. Rows are taken in fixed pieces of about this many values, which bounds memory and keeps
/// the order of additions.
const LOGITS_AT_A_TIME: usize = 1 << 23;

/// Loss and accuracy of the masked positions, and where asked the gradients that the head's part of the graph has.
#[derive(Debug)]
pub struct HeadLoss {
    /// Cross-entropy in nats, summed over (row, stream) and divided by the number of pairs that the mean is over.
    pub loss: f64,
    /// Per stream, the number of rows whose first largest logit is the target's.
    pub correct: Vec<u64>,
    /// Number of rows.
    pub rows: usize,
    /// Gradients of the loss, where asked.
    pub gradients: Option<HeadGradients>,
}

/// Gradients of the mean loss.
#[derive(Debug)]
pub struct HeadGradients {
    /// Of the hidden rows, `(rows, dim)`.
    pub hidden: Tensor,
    /// Of the head's weight, `(codebook_size * streams, dim)`.
    pub weight: Tensor,
    /// Of the head's bias, `(codebook_size * streams)`.
    pub bias: Tensor,
}

/// Cross-entropy of the head's predictions for `rows` of hidden states, OMAR-RQ section 3.2: the mean over all masked
/// (position, stream) pairs. `of` asks for gradients, and says over how many rows the mean goes of which these are a
/// part: loss and gradients of all parts then add up.
///
/// The head is the last operation, so its gradient is known in closed form: it is computed piece by piece together with
/// the loss, and the logits of all rows never exist at once.
///
/// # Shapes
/// `hidden (rows, dim)`, `weight (codebook_size * streams, dim)` with codebook_size the slower axis, `bias` alike,
/// `targets (rows, streams)` u32.
///
/// # Errors
/// When there are no rows, shapes do not fit, a target is no code, or the device fails.
pub fn head_loss(
    hidden: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    targets: &Tensor,
    of: Option<usize>,
    form: Form,
) -> Result<HeadLoss> {
    let (rows, streams) = targets.dims2()?;
    let (outputs, dim) = weight.dims2()?;
    if rows == 0 || streams == 0 || outputs % streams != 0 || hidden.dims() != [rows, dim] {
        bail!(
            "head loss: hidden {:?}, weight {:?} and targets {:?} do not fit",
            hidden.shape(),
            weight.shape(),
            targets.shape()
        );
    }
    let codebook_size = outputs / streams;
    let host_targets = targets.flatten_all()?.to_vec1::<u32>()?;
    if let Some(target) = host_targets.iter().find(|t| **t as usize >= codebook_size) {
        bail!("head loss: target {target} is not below the codebook size {codebook_size}");
    }
    let hidden = hidden.detach();
    // Stream-major copies: the logits of one (row, stream) then lie side by side.
    let by_stream = |t: &Tensor| t.detach().reshape((codebook_size, streams, ()))?.transpose(0, 1)?.contiguous();
    let from_stream = |t: &Tensor| t.reshape((streams, codebook_size, ()))?.transpose(0, 1)?.contiguous();
    let (w, b) = (by_stream(weight)?.reshape((outputs, dim))?, by_stream(bias)?.flatten_all()?);

    let scale = 1.0 / (of.unwrap_or(rows) * streams) as f64;
    let mut totals = Totals { loss: 0.0, correct: vec![0; streams] };
    let mut hidden_parts = Vec::new();
    let mut sums: Option<(Tensor, Tensor)> = None;
    let piece = (LOGITS_AT_A_TIME / outputs).max(64);
    for start in (0..rows).step_by(piece) {
        let n = piece.min(rows - start);
        let x = hidden.narrow(0, start, n)?.contiguous()?;
        let logits = op::linear(&x, &w, Some(&b), form)?.reshape((n, streams, codebook_size))?;
        let (part, slopes) = match form {
            Form::Kernels => {
                let targets = &host_targets[start * streams..(start + n) * streams];
                (in_place(&logits, targets, scale)?, logits)
            }
            Form::Composed | Form::Mixed => composed(&logits, &targets.narrow(0, start, n)?, scale)?,
        };
        totals.loss += part.loss;
        for (sum, correct) in totals.correct.iter_mut().zip(&part.correct) {
            *sum += correct;
        }
        if of.is_some() {
            let slopes = slopes.reshape((n, outputs))?;
            let product = |a: &Tensor, b: &Tensor| {
                a.to_dtype(form.factors())?.matmul(&b.to_dtype(form.factors())?)?.to_dtype(DType::F32)
            };
            hidden_parts.push(product(&slopes, &w)?);
            let part = (product(&slopes.t()?, &x)?, Tensor::ones((1, n), DType::F32, x.device())?.matmul(&slopes)?);
            sums = Some(match sums {
                None => part,
                Some((weight, bias)) => ((weight + part.0)?, (bias + part.1)?),
            });
        }
    }
    let gradients = match sums {
        None => None,
        Some((dw, db)) => Some(HeadGradients {
            hidden: Tensor::cat(&hidden_parts, 0)?,
            weight: from_stream(&dw)?.reshape((outputs, dim))?,
            bias: from_stream(&db)?.flatten_all()?,
        }),
    };
    Ok(HeadLoss { loss: totals.loss * scale, correct: totals.correct, rows, gradients })
}

/// Turns logits `(rows, streams, codebook_size)` into their gradient in place.
fn in_place(logits: &Tensor, targets: &[u32], scale: f64) -> Result<Totals> {
    let (_, streams, codebook_size) = logits.dims3()?;
    let op = CrossEntropy { targets, streams, codebook_size, scale: scale as f32, totals: Mutex::default() };
    logits.inplace_op1(&op)?;
    Ok(op.totals.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct CrossEntropy<'a> {
    targets: &'a [u32],
    streams: usize,
    codebook_size: usize,
    scale: f32,
    totals: Mutex<Totals>,
}

impl InplaceOp1 for CrossEntropy<'_> {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let logits = slice_mut(storage, layout)?;
        let totals = cross_entropy(logits, self.targets, self.streams, self.codebook_size, self.scale);
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner) = totals;
        Ok(())
    }
}

/// The same of candle's operations, for any device.
fn composed(logits: &Tensor, targets: &Tensor, scale: f64) -> Result<(Totals, Tensor)> {
    let targets = targets.contiguous()?;
    #[cfg(feature = "cuda")]
    if cuda::serve(logits) {
        let (loss, correct) = cuda::cross_entropy(logits, &targets, scale)?;
        let correct = correct.reshape(targets.shape())?.sum(0)?.to_vec1::<f32>()?;
        let loss = f64::from(loss.sum_all()?.to_scalar::<f32>()?);
        return Ok((Totals { loss, correct: correct.iter().map(|c| *c as u64).collect() }, logits.clone()));
    }
    let index = targets.unsqueeze(2)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let exponentials = shifted.exp()?;
    let total = exponentials.sum_keepdim(D::Minus1)?;
    let losses = (total.log()? - shifted.gather(&index, D::Minus1)?)?;
    let correct = logits.argmax(D::Minus1)?.eq(&targets)?.to_dtype(DType::F32)?.sum(0)?.to_vec1::<f32>()?;
    let hits = Tensor::full(-1f32, index.shape(), logits.device())?;
    let slopes = exponentials.broadcast_div(&total)?.scatter_add(&index, &hits, D::Minus1)?;
    let loss = f64::from(losses.sum_all()?.to_scalar::<f32>()?);
    Ok((Totals { loss, correct: correct.iter().map(|c| *c as u64).collect() }, (slopes * scale)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Stream;
    use candle_core::{Device, Var};

    fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
        let stream = Stream::new(3, "loss tests").named(name);
        let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| stream.normal(i)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    fn targets(rows: usize, streams: usize, codes: usize) -> Result<Tensor> {
        let stream = Stream::new(3, "targets");
        let values: Vec<u32> = (0..(rows * streams) as u64).map(|i| stream.below(i, codes) as u32).collect();
        Tensor::from_vec(values, (rows, streams), &Device::Cpu)
    }

    /// By the definition, on all logits at once, differentiated by candle.
    fn definition(x: &Tensor, w: &Tensor, b: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (rows, streams) = targets.dims2()?;
        let logits = x.matmul(&w.t()?)?.broadcast_add(b)?.reshape((rows, (), streams))?;
        let log_total = logits.exp()?.sum_keepdim(1)?.log()?;
        (log_total - logits.gather(&targets.unsqueeze(1)?.contiguous()?, 1)?)?.mean_all()
    }

    #[test]
    fn loss_and_gradients_agree_with_the_definition_in_both_forms() -> Result<()> {
        let (rows, dim, codes, streams) = (150, 16, 37, 3);
        let (x, w, b) =
            (normal("x", &[rows, dim])?, normal("w", &[codes * streams, dim])?, normal("b", &[codes * streams])?);
        let (x, w, b) = (Var::from_tensor(&x)?, Var::from_tensor(&w)?, Var::from_tensor(&b)?);
        let targets = targets(rows, streams, codes)?;
        let expected = definition(&x, &w, &b, &targets)?;
        let grads = expected.backward()?;
        for form in [Form::Kernels, Form::Composed] {
            let found = head_loss(&x, (&w, &b), &targets, Some(rows), form)?;
            assert!((found.loss - f64::from(expected.to_scalar::<f32>()?)).abs() < 1e-5);
            let gradients = found.gradients.expect("gradients were asked for");
            for (found, var) in [(gradients.hidden, &x), (gradients.weight, &w), (gradients.bias, &b)] {
                let expected = grads.get(var).expect("the definition has this gradient");
                let diff = (&found - expected)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                assert!(diff < 1e-7 + 1e-5 * expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?, "{form:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn pieces_add_up_to_the_whole() -> Result<()> {
        // Wide enough for several pieces of rows.
        let (rows, dim, codes, streams) = (300, 4, 65_536, 1);
        let (x, w, b) = (normal("x", &[rows, dim])?, normal("w", &[codes, dim])?, normal("b", &[codes])?);
        let targets = targets(rows, streams, codes)?;
        let found = head_loss(&x, (&w, &b), &targets, Some(rows), Form::Kernels)?;
        assert!((found.loss - f64::from(definition(&x, &w, &b, &targets)?.to_scalar::<f32>()?)).abs() < 1e-4);
        assert_eq!(found.gradients.expect("gradients were asked for").hidden.dims(), [rows, dim]);
        Ok(())
    }

    #[test]
    fn accuracy_counts_the_first_of_equal_logits_per_stream() -> Result<()> {
        // No weights: all logits of a row are equal, so code 0 is the prediction.
        let (w, b) = (Tensor::zeros((8, 2), DType::F32, &Device::Cpu)?, Tensor::zeros(8, DType::F32, &Device::Cpu)?);
        let targets = Tensor::new(&[[0u32, 1], [0, 0], [3, 2]], &Device::Cpu)?;
        let x = normal("x", &[3, 2])?;
        for form in [Form::Kernels, Form::Composed] {
            assert_eq!(head_loss(&x, (&w, &b), &targets, None, form)?.correct, [2, 1]);
        }
        let wrong = Tensor::new(&[[4u32, 0]], &Device::Cpu)?;
        let error = head_loss(&x.narrow(0, 0, 1)?, (&w, &b), &wrong, None, Form::Kernels).expect_err("4 is no code");
        assert!(error.to_string().contains("target 4 is not below the codebook size 4"), "{error}");
        Ok(())
    }
}
