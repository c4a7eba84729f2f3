//! The classifier of a probe: dropout, linear, ReLU, and so on, as published (OMAR-RQ section 4; two layers, 512 hidden).

use candle_core::{Device, Result, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::backward;
use crate::model::weights::{Builder, kaiming};
use crate::model::{Form, ModelError, Pass, Source, Weights, op};

/// Rows that are predicted at once.
const ROWS: usize = 4096;

/// Sizes of a multilayer perceptron.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MlpConfig {
    /// Values per vector.
    pub inputs: usize,
    /// Width of every layer but the last.
    pub hidden: usize,
    /// Linear layers; one makes the classifier linear.
    pub layers: usize,
    /// Logits.
    pub outputs: usize,
    /// Probability of dropping an input of a layer while training, those of the first one included.
    pub dropout: f64,
}

/// A multilayer perceptron: for every layer dropout, an affine map and, but for the last, ReLU. Nothing is normalised.
#[derive(Debug)]
pub struct Mlp {
    config: MlpConfig,
    layers: Vec<(Var, Var)>,
    weights: Weights,
    device: Device,
}

impl Mlp {
    /// Fresh weights, uniform in `±1 / sqrt(inputs of the layer)` as PyTorch draws them; or given ones, named
    /// `layers.N.weight` and `layers.N.bias`.
    ///
    /// # Errors
    /// When a given tensor is missing or of another shape, or the device fails.
    pub fn new(config: MlpConfig, source: Source<'_>, device: &Device) -> std::result::Result<Self, ModelError> {
        let mut weights = Weights::default();
        let mut builder = Builder::new(&mut weights, source, device, "");
        let mut all = builder.part("layers");
        let mut layers = Vec::new();
        for index in 0..config.layers {
            let inputs = if index == 0 { config.inputs } else { config.hidden };
            let outputs = if index + 1 == config.layers { config.outputs } else { config.hidden };
            let mut part = all.part(&index.to_string());
            let weight = part.parameter("weight", &[outputs, inputs], kaiming(outputs * inputs, inputs))?;
            layers.push((weight, part.parameter("bias", &[outputs], kaiming(outputs, inputs))?));
        }
        Ok(Self { config, layers, weights, device: device.clone() })
    }

    /// Its sizes.
    pub fn config(&self) -> MlpConfig {
        self.config
    }

    /// Its tensors.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Weight `(outputs, inputs)` and bias of every layer.
    pub(super) fn layers(&self) -> &[(Var, Var)] {
        &self.layers
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Logits.
    ///
    /// # Shapes
    /// `x (rows, inputs)`; the result is `(rows, outputs)`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let form = pass.form();
        let mut x = x.clone();
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            x = op::dropout(&x, pass.dropout(self.config.dropout), form)?;
            x = op::linear(&x, weight, Some(bias), form)?;
            if index + 1 < self.layers.len() {
                x = x.relu()?;
            }
        }
        Ok(x)
    }

    /// Logits without dropout.
    ///
    /// # Shapes
    /// `rows (n, inputs)`; the result is `(n, outputs)`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn predict(&self, rows: &[f32]) -> Result<Vec<f32>> {
        if self.device.is_cpu() {
            let parts = rows.chunks(ROWS * self.config.inputs).map(|part| backward::predict(self, part));
            return Ok(parts.collect::<Result<Vec<_>>>()?.concat());
        }
        let mut logits = Vec::with_capacity(rows.len() / self.config.inputs.max(1) * self.config.outputs);
        for part in rows.chunks(ROWS * self.config.inputs) {
            let x = Tensor::from_slice(part, (part.len() / self.config.inputs, self.config.inputs), &self.device)?;
            let y = self.forward(&x, &mut Pass::evaluate(Form::for_device(&self.device)))?;
            logits.extend(y.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_maps_follow_one_another() {
        let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        let given: HashMap<String, Tensor> = [
            ("layers.0.weight".to_owned(), tensor(&[1.0, 0.0, -1.0, 0.0], &[2, 2])),
            ("layers.0.bias".to_owned(), tensor(&[0.5, 0.0], &[2])),
            ("layers.1.weight".to_owned(), tensor(&[2.0, 3.0], &[1, 2])),
            ("layers.1.bias".to_owned(), tensor(&[-1.0], &[1])),
        ]
        .into();
        let config = MlpConfig { inputs: 2, hidden: 2, layers: 2, outputs: 1, dropout: 0.2 };
        let mlp = Mlp::new(config, Source::Tensors(&given), &Device::Cpu).unwrap();
        // relu(2.5) * 2 + relu(-2) * 3 - 1; relu(-1.5) * 2 + relu(2) * 3 - 1.
        assert_eq!(mlp.predict(&[2.0, 9.0, -2.0, 9.0]).unwrap(), [4.0, 5.0]);
        let wrong = MlpConfig { outputs: 3, ..config };
        assert!(Mlp::new(wrong, Source::Tensors(&given), &Device::Cpu).is_err());
    }
}
