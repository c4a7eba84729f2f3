//! The fused blocks against the single operations, dropout included, over every setting that takes another path.

use crate::model::{ConformerConfig, Form, Keep, Norm, Pass, PositionEncoding, Source, Stream, bare_conformer};
use candle_core::{Device, Result, Tensor};

fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
    let stream = Stream::new(5, "fused tests").named(name);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| stream.normal(i)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Largest difference relative to the largest magnitude.
fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
    let scale = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1e-4);
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()? / scale)
}

fn compare(config: &ConformerConfig, positions: usize) -> Result<()> {
    let (conformer, weights) =
        bare_conformer(config, Source::Seed(3), &Device::Cpu).expect("the configuration is valid");
    let x = normal("x", &[3, positions, config.dim])?;
    let grad = normal("grad", &[3, positions, config.dim])?;
    let pass = || Pass::train(Form::Kernels, 7, 8).from_example(2);

    // One operation after another, differentiated by candle.
    let input = candle_core::Var::from_tensor(&x)?;
    let mut operations = pass();
    let expected = conformer.forward(&input, &mut operations)?;
    let expected_grads = (&expected * &grad)?.sum_all()?.backward()?;
    for keep in [Keep::Everything, Keep::Inputs] {
        let mut fused = pass();
        let (y, tape) = conformer.record(&x, &mut fused, keep)?;
        assert!(distance(&y, &expected)? < 2e-6, "{config:?}: {}", distance(&y, &expected)?);
        let mut seen = 0;
        let dx = conformer.backward(tape, grad.clone(), &mut |var, grad| {
            seen += 1;
            let name = weights.parameters().iter().find(|(_, v)| v.id() == var.id()).map(|(name, _)| name.clone());
            let name = name.expect("a parameter of the model");
            let expected = expected_grads.get(var).expect("every parameter has a gradient");
            // A bias before batch normalisation has no effect: what is left is rounding.
            let bound = if name.ends_with("conv_block.module.2.bias") { 1.0 } else { 5e-5 };
            let difference = distance(&grad, expected)?;
            assert!(difference < bound, "{name} {config:?}: {difference}");
            Ok(())
        })?;
        assert_eq!(seen, weights.parameters().len());
        let difference = distance(&dx, expected_grads.get(&input).expect("the input has a gradient"))?;
        assert!(difference < 2e-5, "{config:?}: {difference}");
        for (a, b) in fused.into_statistics().iter().zip(operations.clone().into_statistics()) {
            assert!(distance(&a.mean, &b.mean)? < 1e-5 && distance(&a.variance, &b.variance)? < 1e-5);
        }
    }
    // Evaluation: running statistics, no dropout; the composed form is the other way here.
    let layers = conformer.forward_layers(&x, &mut Pass::evaluate(Form::Kernels))?;
    let expected = conformer.forward_layers(&x, &mut Pass::evaluate(Form::Composed))?;
    for (layer, expected) in layers.iter().zip(&expected) {
        assert!(distance(layer, expected)? < 5e-6, "{}", distance(layer, expected)?);
    }
    let last = conformer.forward(&x, &mut Pass::evaluate(Form::Kernels))?;
    assert_eq!(distance(&last, &layers[layers.len() - 1])?.to_bits(), 0f32.to_bits());
    Ok(())
}

#[test]
fn blocks_and_single_operations_agree() -> Result<()> {
    let base = ConformerConfig { dropout: 0.2, kernel: 31, ..ConformerConfig::new(2, 40, 4) };
    compare(&base, 83)?;
    compare(&ConformerConfig { causal: false, residual_factor: 0.5, kernel: 7, ..base.clone() }, 70)?;
    compare(&ConformerConfig { norm: Norm::Plain, dropout: 0.0, ..base.clone() }, 9)?;
    compare(&ConformerConfig { positions: PositionEncoding::Sinusoidal, heads: 2, ff_factor: 2, ..base }, 150)
}
