//! AdamW (Loshchilov and Hutter, 2019) as PyTorch computes it, its moments being named tensors.

use crate::model::Weights;
use crate::model::kernel::maths::{fma, sum_of_squares};
use crate::model::kernel::storage::{slice, slice_mut, values};
use candle_core::{CpuStorage, DType, Device, InplaceOp2, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// Values per task of an elementwise pass, and per partial sum of a norm.
const PIECE: usize = 1 << 14;

/// Gradients by the names of their parameters.
pub type Gradients = BTreeMap<String, Tensor>;

/// Constants of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
}

/// The optimiser's state.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    first: BTreeMap<String, Tensor>,
    second: BTreeMap<String, Tensor>,
}

/// Prefixes of the moments' names in a checkpoint.
const FIRST: &str = "opt.m.";
const SECOND: &str = "opt.v.";

impl AdamW {
    /// An optimiser without history: all moments zero.
    ///
    /// # Errors
    /// When the device fails.
    pub fn new(config: AdamWConfig, weights: &Weights) -> Result<Self> {
        let zeros = || -> Result<BTreeMap<String, Tensor>> {
            weights.parameters().iter().map(|(name, var)| Ok((name.clone(), var.zeros_like()?))).collect()
        };
        Ok(Self { config, steps: 0, first: zeros()?, second: zeros()? })
    }

    /// Updates every parameter that has a gradient; `scale` multiplies the gradients.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn step(&mut self, weights: &Weights, gradients: &Gradients, lr: f64, scale: f64) -> Result<()> {
        self.steps += 1;
        let [beta1, beta2] = self.config.betas;
        let exponent = self.steps.min(i32::MAX as u64) as i32;
        let update = Update {
            decay: 1.0 - lr * self.config.weight_decay,
            rate: lr / (1.0 - beta1.powi(exponent)),
            root: 1.0 / (1.0 - beta2.powi(exponent)).sqrt(),
            eps: self.config.eps,
        };
        for (name, var) in weights.parameters() {
            let (Some(gradient), Some(m), Some(v)) =
                (gradients.get(name), self.first.get_mut(name), self.second.get_mut(name))
            else {
                continue;
            };
            if var.device().is_cpu() {
                let gradient = gradient.contiguous()?;
                m.inplace_op2(&gradient, &First { rate: 1.0 - beta1, scale })?;
                v.inplace_op2(&gradient, &Second { beta: beta2, scale })?;
                var.as_tensor().inplace_op3(m, v, &update)?;
            } else {
                let gradient = (gradient * scale)?;
                *m = ((&*m * beta1)? + (&gradient * (1.0 - beta1))?)?;
                *v = ((&*v * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
                let denominator = ((v.sqrt()? * update.root)? + update.eps)?;
                let decayed = (var.as_detached_tensor() * update.decay)?;
                var.set(&(decayed - (&*m / denominator)?.affine(update.rate, 0.0)?)?)?;
            }
        }
        Ok(())
    }

    /// The moments by name: `opt.m.*` and `opt.v.*`.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let named = |prefix: &'static str, moments: &BTreeMap<String, Tensor>| {
            moments.iter().map(|(name, t)| (format!("{prefix}{name}"), t.clone())).collect::<Vec<_>>()
        };
        named(FIRST, &self.first).into_iter().chain(named(SECOND, &self.second)).collect()
    }

    /// Takes up the state after `steps` steps. The tensors must be there, with the shapes of the parameters.
    ///
    /// # Errors
    /// The name and both shapes of the first tensor that is missing or different.
    pub fn restore(&mut self, tensors: &HashMap<String, Tensor>, steps: u64) -> Result<()> {
        for (prefix, moments) in [(FIRST, &mut self.first), (SECOND, &mut self.second)] {
            for (name, moment) in moments {
                let name = format!("{prefix}{name}");
                let found = tensors.get(&name).map(|t| t.dims().to_vec());
                let Some(tensor) = tensors.get(&name).filter(|t| t.dims() == moment.dims()) else {
                    candle_core::bail!("optimiser tensor `{name}`: expected shape {:?}, found {found:?}", moment.dims())
                };
                // A copy: updates happen in place.
                *moment = tensor.to_device(moment.device())?.to_dtype(DType::F32)?.copy()?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// Norm of all gradients together, in double precision and in a fixed order.
///
/// # Errors
/// When a tensor operation fails.
pub fn global_norm(gradients: &Gradients) -> Result<f64> {
    let mut total = 0.0;
    for gradient in gradients.values() {
        total += squared_norm(gradient)?;
    }
    Ok(total.sqrt())
}

/// Sum of squares of one tensor.
fn squared_norm(gradient: &Tensor) -> Result<f64> {
    if !matches!(gradient.device(), Device::Cpu) {
        return Ok(f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?));
    }
    let gradient = gradient.contiguous()?;
    let gradient = values(&gradient)?;
    let partials: Vec<f64> = gradient.par_chunks(PIECE).map(sum_of_squares).collect();
    Ok(partials.iter().sum())
}

/// The name of the first gradient that holds a value that is no number or infinite.
///
/// # Errors
/// When a tensor operation fails.
pub fn first_not_finite(gradients: &Gradients) -> Result<Option<&str>> {
    for (name, gradient) in gradients {
        if !squared_norm(gradient)?.is_finite() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// `m += rate (scale g - m)`.
struct First {
    rate: f64,
    scale: f64,
}

impl InplaceOp2 for First {
    fn name(&self) -> &'static str {
        "adamw_first_moment"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let (rate, scale) = (self.rate as f32, self.scale as f32);
        each(slice_mut(s1, l1)?, slice(s2, l2)?, |m, g| *m = fma(rate, fma(scale, g, -*m), *m));
        Ok(())
    }
}

/// `v = beta v + (1 - beta) (scale g)^2`.
struct Second {
    beta: f64,
    scale: f64,
}

impl InplaceOp2 for Second {
    fn name(&self) -> &'static str {
        "adamw_second_moment"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let (beta, rest, scale) = (self.beta as f32, (1.0 - self.beta) as f32, self.scale as f32);
        each(slice_mut(s1, l1)?, slice(s2, l2)?, |v, g| *v = fma(beta, *v, rest * (scale * g) * (scale * g)));
        Ok(())
    }
}

/// `p = decay p - rate m / (root sqrt(v) + eps)`.
struct Update {
    decay: f64,
    rate: f64,
    root: f64,
    eps: f64,
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw_update"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let (decay, rate) = (self.decay as f32, self.rate as f32);
        let (root, eps) = (self.root as f32, self.eps as f32);
        let (p, m, v) = (slice_mut(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        p.par_chunks_mut(PIECE).zip(m.par_chunks(PIECE)).zip(v.par_chunks(PIECE)).for_each(|((p, m), v)| {
            for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
                *p = decay * *p - rate * m / fma(root, v.sqrt(), eps);
            }
        });
        Ok(())
    }
}

/// `f(state, gradient)` for every element.
fn each(state: &mut [f32], gradient: &[f32], f: impl Fn(&mut f32, f32) + Sync) {
    state.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE)).for_each(|(state, gradient)| {
        for (state, g) in state.iter_mut().zip(gradient) {
            f(state, *g);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ConformerConfig, Encoder, Source};

    /// PyTorch's update in double precision.
    fn reference(p: f64, gradients: &[f64], lr: f64, config: AdamWConfig) -> f64 {
        let (mut p, mut m, mut v) = (p, 0.0, 0.0);
        let [b1, b2] = config.betas;
        for (i, g) in gradients.iter().enumerate() {
            p *= 1.0 - lr * config.weight_decay;
            m = b1 * m + (1.0 - b1) * g;
            v = b2 * v + (1.0 - b2) * g * g;
            let t = i as i32 + 1;
            p -= lr / (1.0 - b1.powi(t)) * m / (v.sqrt() / (1.0 - b2.powi(t)).sqrt() + config.eps);
        }
        p
    }

    #[test]
    fn several_steps_follow_the_formula_and_leave_the_rest_alone() -> Result<()> {
        let config = ConformerConfig::new(1, 8, 2);
        let (_, weights) = Encoder::new(&config, 4, Source::Seed(1), &Device::Cpu).expect("the model is valid");
        let adamw = AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1 };
        let mut optimizer = AdamW::new(adamw, &weights)?;
        let name = "embedding_layer.weight";
        let before = weights.tensors();
        let start = before[name].copy()?.flatten_all()?.to_vec1::<f32>()?;
        let untouched = before["net.layers.0.norm2.weight"].copy()?.to_vec1::<f32>()?;
        let gradients = [0.5, -0.25, 2.0];
        for g in gradients {
            let g = Tensor::full(2.0 * g as f32, before[name].shape(), &Device::Cpu)?;
            optimizer.step(&weights, &Gradients::from([(name.to_owned(), g)]), 1e-2, 0.5)?;
        }
        let after = weights.tensors();
        for (start, found) in start.iter().zip(after[name].flatten_all()?.to_vec1::<f32>()?) {
            let expected = reference(f64::from(*start), &gradients, 1e-2, adamw);
            assert!((f64::from(found) - expected).abs() < 1e-6);
        }
        assert_eq!(untouched, after["net.layers.0.norm2.weight"].to_vec1::<f32>()?);
        Ok(())
    }

    #[test]
    fn norm_is_over_all_gradients_and_names_the_one_that_is_not_finite() -> Result<()> {
        let tensor = |v: &[f32]| Tensor::new(v, &Device::Cpu);
        let mut gradients = Gradients::from([("a".into(), tensor(&[3.0])?), ("b".into(), tensor(&[4.0, 12.0])?)]);
        assert!((global_norm(&gradients)? - 13.0).abs() < 1e-9);
        assert_eq!(first_not_finite(&gradients)?, None);
        gradients.insert("b".into(), tensor(&[f32::NAN, 1.0])?);
        assert_eq!(first_not_finite(&gradients)?, Some("b"));
        Ok(())
    }
}
