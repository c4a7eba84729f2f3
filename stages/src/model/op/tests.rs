//! Every operation: kernels against the composed form, values and gradients, and the kernels' gradients against finite
//! differences. Always with more than one example: candle's known defects hide at batch one.

use super::super::pass::{Dropout, Form, Pass};
use super::super::random::Stream;
use super::super::rotary::{Angles, rotary_frequencies};
use super::*;
use candle_core::{Device, Var};
use std::sync::Arc;

/// A variable of standard normal values.
fn normal(name: &str, shape: &[usize]) -> Result<Var> {
    let stream = Stream::new(11, "op tests").named(name);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| stream.normal(i)).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// An arbitrary linear functional of the result, so that every element's gradient differs.
fn functional(y: &Tensor) -> Result<Tensor> {
    (normal("functional", y.dims())?.as_detached_tensor() * y)?.sum_all()
}

fn drop(probability: f64) -> Option<Dropout> {
    Pass::train(Form::Kernels, 5, 6).dropout(probability)
}

/// Largest difference relative to the largest magnitude.
fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
    let scale = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1e-3);
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()? / scale)
}

/// Checks values, gradients and finite differences of `f` over `inputs`.
fn check(inputs: &[Var], f: impl Fn(&[Tensor], Form) -> Result<Tensor>) -> Result<()> {
    let run = |form: Form| -> Result<(Tensor, Vec<Tensor>)> {
        let tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
        let y = f(&tensors, form)?;
        let grads = functional(&y)?.backward()?;
        let grads = tensors.iter().map(|t| grads.get(t).cloned().expect("every input has a gradient")).collect();
        Ok((y, grads))
    };
    let (y, grads) = run(Form::Kernels)?;
    let (expected, expected_grads) = run(Form::Composed)?;
    assert!(distance(&y, &expected)? < 2e-6, "values: {}", distance(&y, &expected)?);
    for (i, (grad, expected)) in grads.iter().zip(&expected_grads).enumerate() {
        assert!(distance(grad, expected)? < 2e-5, "gradient {i}: {}", distance(grad, expected)?);
    }
    // Along a random direction, in f32: the step balances rounding against curvature.
    let step = 1e-2;
    for (i, input) in inputs.iter().enumerate() {
        let direction = normal(&format!("direction {i}"), input.dims())?.as_detached_tensor();
        let at = |t: f64| -> Result<f64> {
            let mut tensors: Vec<Tensor> = inputs.iter().map(Var::as_detached_tensor).collect();
            tensors[i] = (&tensors[i] + (&direction * t)?)?;
            let y = f(&tensors, Form::Kernels)?;
            let functional = normal("functional", y.dims())?.as_detached_tensor();
            let product = (y.to_dtype(candle_core::DType::F64)? * functional.to_dtype(candle_core::DType::F64)?)?;
            product.sum_all()?.to_scalar()
        };
        let numeric = (8.0 * (at(step)? - at(-step)?) - (at(2.0 * step)? - at(-2.0 * step)?)) / (12.0 * step);
        let analytic = f64::from((&grads[i] * &direction)?.sum_all()?.to_scalar::<f32>()?);
        let scale = f64::from((&grads[i] * &direction)?.abs()?.sum_all()?.to_scalar::<f32>()?).max(1e-3);
        assert!((numeric - analytic).abs() / scale < 1e-3, "input {i}: numeric {numeric}, analytic {analytic}");
    }
    Ok(())
}

#[test]
fn linear_has_the_right_gradients() -> Result<()> {
    let inputs = [normal("x", &[3, 7, 10])?, normal("w", &[6, 10])?, normal("b", &[6])?];
    check(&inputs, |t, form| linear(&t[0], &t[1], Some(&t[2]), form))?;
    check(&inputs[..2], |t, form| linear(&t[0], &t[1], None, form))?;
    let pointwise = [normal("x", &[3, 7, 10])?, normal("w", &[6, 10, 1])?, normal("b", &[6])?];
    check(&pointwise, |t, form| linear(&t[0], &t[1], Some(&t[2]), form))?;
    // A transposed view as input: the case where candle's own product is silently wrong.
    let turned = [normal("x", &[3, 10, 7])?, normal("w", &[6, 10])?, normal("b", &[6])?];
    check(&turned, |t, form| linear(&t[0].transpose(1, 2)?, &t[1], Some(&t[2]), form))
}

#[test]
fn layer_norm_has_the_right_gradients() -> Result<()> {
    let inputs = [normal("x", &[3, 41, 20])?, normal("w", &[20])?, normal("b", &[20])?];
    check(&inputs, |t, form| layer_norm(&t[0], &t[1], &t[2], 6.1e-5, form))
}

#[test]
fn activations_have_the_right_gradients() -> Result<()> {
    let inputs = [normal("x", &[3, 41, 20])?];
    check(&inputs, |t, form| gelu(&t[0], None, form))?;
    check(&inputs, |t, form| gelu(&t[0], drop(0.3), form))?;
    check(&inputs, |t, form| glu(&t[0], form))
}

#[test]
fn residual_and_dropout_have_the_right_gradients() -> Result<()> {
    let inputs = [normal("x", &[3, 41, 20])?, normal("y", &[3, 41, 20])?];
    check(&inputs, |t, form| residual(&t[0], &t[1], 1.0, 4.0, drop(0.2), form))?;
    check(&inputs, |t, form| residual(&t[0], &t[1], 2.6, 1.0, None, form))?;
    check(&inputs[..1], |t, form| dropout(&t[0], drop(0.5), form))
}

#[test]
fn depthwise_has_the_right_gradients() -> Result<()> {
    for positions in [50, 20] {
        let inputs = [normal("x", &[3, positions, 12])?, normal("w", &[12, 1, 31])?, normal("b", &[12])?];
        check(&inputs, |t, form| depthwise(&t[0], &t[1], &t[2], form))?;
    }
    let short = [normal("x", &[2, 3, 4])?, normal("w", &[4, 1, 31])?, normal("b", &[4])?];
    check(&short, |t, form| depthwise(&t[0], &t[1], &t[2], form))
}

#[test]
fn batch_norm_has_the_right_gradients() -> Result<()> {
    let inputs = [normal("x", &[3, 41, 20])?, normal("w", &[20])?, normal("b", &[20])?];
    check(&inputs, |t, form| Ok(batch_norm_gelu_train(&t[0], &t[1], &t[2], 6.1e-5, form, None)?.0))?;
    let mean = normal("mean", &[20])?.as_detached_tensor();
    let variance = normal("variance", &[20])?.as_detached_tensor().sqr()?;
    check(&inputs, |t, form| batch_norm_gelu_evaluate(&t[0], &t[1], &t[2], (&mean, &(&variance + 0.5)?), 6.1e-5, form))
}

#[test]
fn attention_has_the_right_gradients() -> Result<()> {
    for (heads, head_dim, positions, causal, rotary, probability) in [
        (3, 8, 53, true, true, 0.0),
        (2, 6, 100, false, true, 0.0),
        (2, 12, 49, true, false, 0.2),
        (1, 4, 5, false, false, 0.2),
    ] {
        let inputs = [normal("qkv", &[2, positions, 3 * heads * head_dim])?];
        let angles = rotary.then(|| Arc::new(Angles::new(&rotary_frequencies(head_dim), positions)));
        let shape = AttentionShape { heads, causal, angles, drop: drop(probability) };
        check(&inputs, |t, form| attention(&t[0], shape.clone(), form))?;
    }
    Ok(())
}
