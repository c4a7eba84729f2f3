//! AdamW (Loshchilov and Hutter, 2019) as PyTorch computes it, its moments being named tensors.

use crate::model::Weights;
#[cfg(feature = "cuda")]
use crate::model::cuda;
use crate::model::kernel::maths::{fma, sum_of_squares, vectorized};
use crate::model::kernel::storage::{slice, slice_mut, values};
use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor, Var};
use globset::GlobMatcher;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

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

/// How single parameters differ from the rest.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Whether parameters of one dimension decay too.
    pub decay_vectors: bool,
    /// Pattern of names, factor of the learning rate, weight decay if another; the first that fits counts.
    pub patterns: Vec<(GlobMatcher, f64, Option<f64>)>,
}

impl Groups {
    /// Every parameter alike.
    pub fn none() -> Self {
        Self { decay_vectors: true, patterns: Vec::new() }
    }

    /// Factor of the learning rate, and weight decay.
    fn of(&self, name: &str, dimensions: usize, weight_decay: f64) -> (f64, f64) {
        let decay = if self.decay_vectors || dimensions > 1 { weight_decay } else { 0.0 };
        let group = self.patterns.iter().find(|(pattern, ..)| pattern.is_match(name));
        group.map_or((1.0, decay), |(_, factor, other)| (*factor, other.unwrap_or(decay)))
    }
}

/// The optimiser's state.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    parameters: BTreeMap<String, Parameter>,
}

/// What the optimiser knows of one parameter.
#[derive(Debug)]
struct Parameter {
    lr_factor: f64,
    weight_decay: f64,
    shape: Vec<usize>,
    moments: Moments,
}

/// First and second moment of the gradient.
#[derive(Debug)]
enum Moments {
    /// Beside the CPU, where one pass updates moments and weights.
    Host(Vec<f32>, Vec<f32>),
    /// On another device.
    Device(Tensor, Tensor),
}

/// Prefixes of the moments' names in a checkpoint.
const FIRST: &str = "opt.m.";
const SECOND: &str = "opt.v.";

impl AdamW {
    /// An optimiser without history: all moments zero.
    ///
    /// # Errors
    /// When the device fails.
    pub fn new(config: AdamWConfig, weights: &Weights, groups: &Groups) -> Result<Self> {
        let parameters = weights.parameters().iter().map(|(name, var)| {
            let (lr_factor, weight_decay) = groups.of(name, var.rank(), config.weight_decay);
            let moments = if var.device().is_cpu() {
                Moments::Host(vec![0.0; var.elem_count()], vec![0.0; var.elem_count()])
            } else {
                Moments::Device(var.zeros_like()?, var.zeros_like()?)
            };
            Ok((name.clone(), Parameter { lr_factor, weight_decay, shape: var.dims().to_vec(), moments }))
        });
        Ok(Self { config, steps: 0, parameters: parameters.collect::<Result<_>>()? })
    }

    /// Updates every parameter that has a gradient; `scale` multiplies the gradients.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn step(&mut self, weights: &Weights, gradients: &Gradients, lr: f64, scale: f64) -> Result<()> {
        self.steps += 1;
        let [beta1, beta2] = self.config.betas;
        let exponent = self.steps.min(i32::MAX as u64) as i32;
        let (bias1, bias2) = (1.0 - beta1.powi(exponent), 1.0 - beta2.powi(exponent));
        for (name, var) in weights.parameters() {
            let (Some(gradient), Some(parameter)) = (gradients.get(name), self.parameters.get_mut(name)) else {
                continue;
            };
            let lr = lr * parameter.lr_factor;
            if lr == 0.0 {
                continue;
            }
            let update = Update {
                betas: self.config.betas,
                scale,
                decay: 1.0 - lr * parameter.weight_decay,
                rate: lr / bias1,
                root: 1.0 / bias2.sqrt(),
                eps: self.config.eps,
            };
            match &mut parameter.moments {
                Moments::Host(m, v) => update.host(var, gradient, m, v)?,
                Moments::Device(m, v) => update.device(var, gradient, m, v)?,
            }
        }
        Ok(())
    }

    /// The moments by name: `opt.m.*` and `opt.v.*`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let mut named = HashMap::new();
        for (name, parameter) in &self.parameters {
            let (m, v) = match &parameter.moments {
                Moments::Host(m, v) => {
                    let tensor = |values: &[f32]| Tensor::from_slice(values, &parameter.shape[..], &Device::Cpu);
                    (tensor(m)?, tensor(v)?)
                }
                Moments::Device(m, v) => (m.clone(), v.clone()),
            };
            named.insert(format!("{FIRST}{name}"), m);
            named.insert(format!("{SECOND}{name}"), v);
        }
        Ok(named)
    }

    /// Takes up the state after `steps` steps. The tensors must be there, with the shapes of the parameters.
    ///
    /// # Errors
    /// The name and both shapes of the first tensor that is missing or different.
    pub fn restore(&mut self, tensors: &HashMap<String, Tensor>, steps: u64) -> Result<()> {
        let get = |name: String, shape: &[usize]| match tensors.get(&name) {
            Some(tensor) if tensor.dims() == shape => tensor.to_dtype(DType::F32),
            other => {
                let found = other.map(|t| t.dims().to_vec());
                candle_core::bail!("optimiser tensor `{name}`: expected shape {shape:?}, found {found:?}")
            }
        };
        for (name, parameter) in &mut self.parameters {
            let first = get(format!("{FIRST}{name}"), &parameter.shape)?;
            let second = get(format!("{SECOND}{name}"), &parameter.shape)?;
            match &mut parameter.moments {
                Moments::Host(m, v) => {
                    *m = first.flatten_all()?.to_vec1()?;
                    *v = second.flatten_all()?.to_vec1()?;
                }
                Moments::Device(m, v) => {
                    let device = m.device().clone();
                    (*m, *v) = (first.to_device(&device)?, second.to_device(&device)?);
                }
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// One update: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `p = decay p - rate m / (root sqrt(v) + eps)`, the
/// gradient `g` being scaled first.
struct Update {
    betas: [f64; 2],
    scale: f64,
    decay: f64,
    rate: f64,
    root: f64,
    eps: f64,
}

impl Update {
    fn host(&self, var: &Var, gradient: &Tensor, m: &mut [f32], v: &mut [f32]) -> Result<()> {
        let moments = Mutex::new((m, v));
        var.as_tensor().inplace_op2(&gradient.contiguous()?, &InPlace { update: self, moments })
    }

    /// The same of candle's operations.
    fn device(&self, var: &Var, gradient: &Tensor, m: &mut Tensor, v: &mut Tensor) -> Result<()> {
        let [beta1, beta2] = self.betas;
        #[cfg(feature = "cuda")]
        if cuda::serve(gradient) {
            let constants = [self.scale, self.decay, self.rate, self.root, self.eps];
            return cuda::adamw(var, &gradient.contiguous()?, m, v, constants, self.betas);
        }
        let gradient = (gradient * self.scale)?;
        *m = ((&*m * beta1)? + (&gradient * (1.0 - beta1))?)?;
        *v = ((&*v * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
        let denominator = ((v.sqrt()? * self.root)? + self.eps)?;
        let decayed = (var.as_detached_tensor() * self.decay)?;
        var.set(&(decayed - (&*m / denominator)?.affine(self.rate, 0.0)?)?)
    }

    /// Updates a piece, all of it in one pass over four arrays.
    #[inline(always)]
    fn piece(&self, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let (scale, decay, rate) = (self.scale as f32, self.decay as f32, self.rate as f32);
        let (root, eps) = (self.root as f32, self.eps as f32);
        let (first, beta) = ((1.0 - self.betas[0]) as f32, self.betas[1] as f32);
        let second = (1.0 - self.betas[1]) as f32;
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = scale * g;
            *m = fma(first, g - *m, *m);
            *v = fma(beta, *v, second * g * g);
            *p = fma(decay, *p, -(rate * *m / fma(root, v.sqrt(), eps)));
        }
    }
}

struct InPlace<'a> {
    update: &'a Update,
    moments: Mutex<(&'a mut [f32], &'a mut [f32])>,
}

impl InplaceOp2 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let (p, g) = (slice_mut(s1, l1)?, slice(s2, l2)?);
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let (m, v) = &mut *moments;
        if p.len() <= PIECE {
            vectorized(|| self.update.piece(p, g, m, v));
            return Ok(());
        }
        let pieces =
            p.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).zip(m.par_chunks_mut(PIECE)).zip(v.par_chunks_mut(PIECE));
        pieces.for_each(|(((p, g), m), v)| vectorized(|| self.update.piece(p, g, m, v)));
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
        let mut optimizer = AdamW::new(adamw, &weights, &Groups::none())?;
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
