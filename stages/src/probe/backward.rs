//! Loss and gradients of a perceptron on the CPU, layer by layer: for nets this small the bookkeeping of a graph of
//! operations costs more than the operations.

use std::borrow::Cow;

use candle_core::{Result, Tensor};

use super::mlp::Mlp;
use super::objective::Objective;
use crate::model::kernel::gemm::{Into, Matrix, multiply};
use crate::model::kernel::rows::{map_rows, sum_rows};
use crate::model::kernel::storage::values;
use crate::model::{Dropout, Pass};
use crate::train::Gradients;

/// What a layer was given, and its dropout.
struct Seen<'a> {
    /// After dropout, `(rows, inputs)`.
    input: Cow<'a, [f32]>,
    drop: Option<Dropout>,
}

/// Mean loss of rows, and the gradients of all weights.
///
/// # Shapes
/// `rows (n, inputs)`, `targets (n, outputs)`.
pub(super) fn gradients(
    mlp: &Mlp,
    objective: &Objective,
    rows: &[f32],
    targets: &[f32],
    pass: &mut Pass,
) -> Result<(f64, Gradients)> {
    let (seen, logits) = forward(mlp, rows, pass)?;
    let mut slopes = vec![0.0; logits.len()];
    let loss = objective.evaluate(&logits, targets, mlp.config().outputs, &mut slopes);
    let mut gradients = Gradients::new();
    for (index, (weight, _)) in mlp.layers().iter().enumerate().rev() {
        let (outputs, inputs) = weight.dims2()?;
        let input = &seen[index].input;
        let mut of_weight = vec![0.0; outputs * inputs];
        multiply(&mut of_weight, Matrix::new(&slopes, outputs).t(), Matrix::new(input, inputs), Into::Replace);
        let of_bias = sum_rows(slopes.len() / outputs, outputs, |row, total| {
            total.iter_mut().zip(&slopes[row * outputs..]).for_each(|(sum, slope)| *sum += slope);
        });
        let device = mlp.device();
        gradients.insert(format!("layers.{index}.weight"), Tensor::from_vec(of_weight, (outputs, inputs), device)?);
        gradients.insert(format!("layers.{index}.bias"), Tensor::from_vec(of_bias, outputs, device)?);
        if index > 0 {
            let mut before = vec![0.0; slopes.len() / outputs * inputs];
            let weight = values(weight)?;
            multiply(&mut before, Matrix::new(&slopes, outputs), Matrix::new(&weight, inputs), Into::Replace);
            let drop = seen[index].drop.map(|drop| drop.per_example(1));
            // What ReLU or dropout made zero has no slope; dropout scales the rest.
            map_rows(&mut before, inputs, |row, slopes| {
                let factors = drop.map(|drop| drop.row(row));
                for (column, (slope, input)) in slopes.iter_mut().zip(&input[row * inputs..]).enumerate() {
                    let factor = factors.as_ref().map_or(1.0, |factors| factors.at(column));
                    *slope = if *input > 0.0 { *slope * factor } else { 0.0 };
                }
            });
            slopes = before;
        }
    }
    Ok((loss, gradients))
}

/// What every layer is given, and the logits.
fn forward<'a>(mlp: &Mlp, rows: &'a [f32], pass: &mut Pass) -> Result<(Vec<Seen<'a>>, Vec<f32>)> {
    let (mut seen, mut x) = (Vec::new(), Cow::Borrowed(rows));
    for (index, (weight, bias)) in mlp.layers().iter().enumerate() {
        let (outputs, inputs) = weight.dims2()?;
        let drop = pass.dropout(mlp.config().dropout);
        if let Some(drop) = drop.map(|drop| drop.per_example(1)) {
            map_rows(x.to_mut(), inputs, |row, values| {
                let factors = drop.row(row);
                values.iter_mut().enumerate().for_each(|(column, value)| *value *= factors.at(column));
            });
        }
        let (weight, bias) = (values(weight)?, values(bias)?);
        let mut y = vec![0.0; x.len() / inputs * outputs];
        multiply(&mut y, Matrix::new(&x, inputs), Matrix::new(&weight, inputs).t(), Into::Replace);
        let hidden = index + 1 < mlp.layers().len();
        map_rows(&mut y, outputs, |_, row| {
            row.iter_mut().zip(bias.iter()).for_each(|(y, bias)| {
                *y += bias;
                if hidden {
                    *y = y.max(0.0);
                }
            });
        });
        seen.push(Seen { input: std::mem::replace(&mut x, Cow::Owned(y)), drop });
    }
    Ok((seen, x.into_owned()))
}

/// Logits without dropout.
pub(super) fn predict(mlp: &Mlp, rows: &[f32]) -> Result<Vec<f32>> {
    Ok(forward(mlp, rows, &mut Pass::evaluate(crate::model::Form::Kernels))?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Form, Source};
    use crate::probe::mlp::MlpConfig;
    use candle_core::Device;

    #[test]
    fn gradients_are_those_of_the_graph_of_operations() {
        for (layers, dropout) in [(1, 0.0), (2, 0.0), (2, 0.3), (3, 0.2)] {
            let config = MlpConfig { inputs: 5, hidden: 7, layers, outputs: 3, dropout };
            let mlp = Mlp::new(config, Source::Seed(9), &Device::Cpu).unwrap();
            let rows: Vec<f32> = (0..55).map(|i| (i as f32 * 0.7).sin()).collect();
            let targets: Vec<f32> = (0..33).map(|i| f32::from(u8::from(i % 4 == 0))).collect();
            let objective = Objective::Binary { weights: vec![1.0, 0.5, 2.0] };
            let pass = || Pass::train(Form::Kernels, 3, 4);
            let (loss, own) = gradients(&mlp, &objective, &rows, &targets, &mut pass()).unwrap();

            let x = Tensor::from_slice(&rows, (11, 5), &Device::Cpu).unwrap();
            let logits = mlp.forward(&x, &mut pass()).unwrap();
            let mut slopes = vec![0.0; 33];
            let flat = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = objective.evaluate(&flat, &targets, 3, &mut slopes);
            assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
            let slopes = Tensor::from_vec(slopes, (11, 3), &Device::Cpu).unwrap();
            let store = (logits * slopes).unwrap().sum_all().unwrap().backward().unwrap();
            for (name, var) in mlp.weights().parameters() {
                let graph = store.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let own = own[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let largest = graph.iter().zip(&own).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(largest < 1e-6, "{name}, {layers} layers, dropout {dropout}: {largest}");
            }
        }
    }
}
