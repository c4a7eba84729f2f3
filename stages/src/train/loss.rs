//! The loss of masked positions, with the gradient of the head.

#[cfg(feature = "cuda")]
use crate::model::cuda;
use crate::model::kernel::cross_entropy::{Totals, cross_entropy};
use crate::model::kernel::gemm::{Into, Matrix, multiply};
use crate::model::kernel::rows::{map_rows, sum_rows};
use crate::model::kernel::storage::values;
use crate::model::{Form, op};
use candle_core::{D, DType, Result, Tensor, bail};

/// Logits that exist at a time. Rows are taken in fixed pieces of about this many values, which bounds memory and keeps
/// the order of additions.
const LOGITS_AT_A_TIME: usize = 1 << 21;

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
    let head = Head {
        weight: by_stream(weight)?.reshape((outputs, dim))?,
        bias: by_stream(bias)?.flatten_all()?,
        streams,
        scale: 1.0 / (of.unwrap_or(rows) * streams) as f64,
        with_gradients: of.is_some(),
    };
    let (totals, gradients) = match form {
        Form::Kernels => head.by_kernels(&hidden.contiguous()?, &host_targets)?,
        Form::Composed | Form::Mixed => head.composed(&hidden, targets, form)?,
    };
    let gradients = match gradients {
        None => None,
        Some((hidden, weight, bias)) => Some(HeadGradients {
            hidden,
            weight: from_stream(&weight)?.reshape((outputs, dim))?,
            bias: from_stream(&bias)?.flatten_all()?,
        }),
    };
    Ok(HeadLoss { loss: totals.loss * head.scale, correct: totals.correct, rows, gradients })
}

/// Gradients of hidden rows, weight and bias.
type Parts = (Tensor, Tensor, Tensor);

/// The head with its outputs stream after stream.
struct Head {
    /// `(streams * codebook_size, dim)`.
    weight: Tensor,
    /// `(streams * codebook_size)`.
    bias: Tensor,
    streams: usize,
    scale: f64,
    with_gradients: bool,
}

impl Head {
    /// On the CPU: one buffer of logits, turned into their gradient in place, piece after piece.
    fn by_kernels(&self, hidden: &Tensor, targets: &[u32]) -> Result<(Totals, Option<Parts>)> {
        let (outputs, dim) = self.weight.dims2()?;
        let (rows, streams) = (hidden.dim(0)?, self.streams);
        let (x, weight, bias) = (values(hidden)?, values(&self.weight)?, values(&self.bias)?);
        let piece = (LOGITS_AT_A_TIME / outputs).max(64).min(rows);
        let mut logits = vec![0.0; piece * outputs];
        let kept = if self.with_gradients { (rows * dim, outputs * dim, outputs) } else { (0, 0, 0) };
        let (mut d_hidden, mut d_weight, mut d_bias) = (vec![0.0; kept.0], vec![0.0; kept.1], vec![0.0; kept.2]);
        let mut totals = Totals { loss: 0.0, correct: vec![0; streams] };
        for start in (0..rows).step_by(piece) {
            let n = piece.min(rows - start);
            let (x, logits) = (&x[start * dim..(start + n) * dim], &mut logits[..n * outputs]);
            multiply(logits, Matrix::new(x, dim), Matrix::new(&weight, dim).t(), Into::Replace);
            map_rows(logits, outputs, |_, row| {
                for (logit, b) in row.iter_mut().zip(&bias[..]) {
                    *logit += b;
                }
            });
            let targets = &targets[start * streams..(start + n) * streams];
            totals.add(&cross_entropy(logits, targets, streams, outputs / streams, self.scale as f32));
            if self.with_gradients {
                let slopes = Matrix::new(logits, outputs);
                let d_hidden = &mut d_hidden[start * dim..(start + n) * dim];
                multiply(d_hidden, slopes, Matrix::new(&weight, dim), Into::Replace);
                multiply(&mut d_weight, slopes.t(), Matrix::new(x, dim), Into::Add);
                let sums = sum_rows(n, outputs, |row, total| {
                    for (total, slope) in total.iter_mut().zip(&logits[row * outputs..]) {
                        *total += slope;
                    }
                });
                d_bias.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
        }
        if !self.with_gradients {
            return Ok((totals, None));
        }
        let device = hidden.device();
        let d_weight = Tensor::from_vec(d_weight, (outputs, dim), device)?;
        let parts =
            (Tensor::from_vec(d_hidden, (rows, dim), device)?, d_weight, Tensor::from_vec(d_bias, outputs, device)?);
        Ok((totals, Some(parts)))
    }

    /// The same of candle's operations, for any device.
    fn composed(&self, hidden: &Tensor, targets: &Tensor, form: Form) -> Result<(Totals, Option<Parts>)> {
        let (outputs, _) = self.weight.dims2()?;
        let (rows, streams) = targets.dims2()?;
        let product = |a: &Tensor, b: &Tensor| {
            a.to_dtype(form.factors())?.matmul(&b.to_dtype(form.factors())?)?.to_dtype(DType::F32)
        };
        let mut totals = Totals { loss: 0.0, correct: vec![0; streams] };
        let (mut d_hidden, mut sums) = (Vec::new(), None::<(Tensor, Tensor)>);
        let piece = (LOGITS_AT_A_TIME / outputs).max(64);
        for start in (0..rows).step_by(piece) {
            let n = piece.min(rows - start);
            let x = hidden.narrow(0, start, n)?.contiguous()?;
            let logits = op::linear(&x, &self.weight, Some(&self.bias), form)?;
            let logits = logits.reshape((n, streams, outputs / streams))?;
            let (part, slopes) = composed(&logits, &targets.narrow(0, start, n)?, self.scale)?;
            totals.add(&part);
            if self.with_gradients {
                let slopes = slopes.reshape((n, outputs))?;
                d_hidden.push(product(&slopes, &self.weight)?);
                let part = (product(&slopes.t()?, &x)?, Tensor::ones((1, n), DType::F32, x.device())?.matmul(&slopes)?);
                sums = Some(match sums {
                    None => part,
                    Some((weight, bias)) => ((weight + part.0)?, (bias + part.1)?),
                });
            }
        }
        let parts = match sums {
            None => None,
            Some((weight, bias)) => Some((Tensor::cat(&d_hidden, 0)?, weight, bias)),
        };
        Ok((totals, parts))
    }
}

/// Totals and the gradient of logits `(rows, streams, codebook_size)`.
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
