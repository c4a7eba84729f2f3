//! The convolution step of a block.

use super::config::ConformerConfig;
use super::error::ModelError;
use super::feed_forward::INNER_EPS;
use super::kernel::storage::values;
use super::layers::{LayerNorm, Linear};
use super::op;
use super::pass::{BatchStatistics, Pass};
use super::weights::{Builder, kaiming};
use candle_core::{Result, Tensor, Var};

/// Weight of the newest minibatch in the running statistics, PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// `x + Conv(x)` with Conv = LayerNorm, pointwise, GLU, depthwise, BatchNorm, GELU, pointwise, Dropout (Conformer,
/// section 2.2, but GELU for Swish; facts of the released models).
#[derive(Clone, Debug)]
pub(crate) struct Convolution {
    pub(super) norm: LayerNorm,
    pub(super) expand: Linear,
    pub(super) depthwise: (Var, Var),
    pub(super) batch_norm: BatchNorm,
    pub(super) project: Linear,
    pub(super) dropout: f64,
}

impl Convolution {
    pub(crate) fn new(mut builder: Builder<'_>, config: &ConformerConfig) -> std::result::Result<Self, ModelError> {
        let (dim, kernel) = (config.dim, config.kernel);
        let norm = LayerNorm::new(builder.part("layer_norm"), dim, INNER_EPS)?;
        let expand = Linear::new(builder.part("module.0"), dim, 2 * dim, true, true, None)?;
        let mut depthwise = builder.part("module.2");
        let depthwise = (
            depthwise.parameter("weight", &[dim, 1, kernel], kaiming(dim * kernel, kernel))?,
            depthwise.parameter("bias", &[dim], kaiming(dim, kernel))?,
        );
        let batch_norm = BatchNorm::new(builder.part("module.3"), dim)?;
        let project = Linear::new(builder.part("module.5"), dim, dim, true, true, None)?;
        Ok(Self { norm, expand, depthwise, batch_norm, project, dropout: config.dropout })
    }

    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let form = pass.form();
        let y = self.expand.forward(&self.norm.forward(x, form)?, form)?;
        let y = op::glu(&y, form)?;
        let y = op::depthwise(&y, &self.depthwise.0, &self.depthwise.1, form)?;
        let y = self.batch_norm.forward_gelu(&y, pass)?;
        let y = self.project.forward(&y, form)?;
        op::residual(x, &y, 1.0, 1.0, pass.dropout(self.dropout), form)
    }

    /// Moves the running statistics towards those of a training minibatch.
    pub(crate) fn update_running(&self, statistics: &BatchStatistics) -> Result<()> {
        self.batch_norm.update_running(statistics)
    }
}

/// Batch normalisation with running statistics.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    weight: Var,
    bias: Var,
    running_mean: Var,
    running_var: Var,
    tracked: Var,
}

impl BatchNorm {
    fn new(mut builder: Builder<'_>, channels: usize) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            weight: builder.parameter("weight", &[channels], |_| vec![1.0; channels])?,
            bias: builder.parameter("bias", &[channels], |_| vec![0.0; channels])?,
            running_mean: builder.buffer("running_mean", &[channels], vec![0.0; channels])?,
            running_var: builder.buffer("running_var", &[channels], vec![1.0; channels])?,
            tracked: builder.counter("num_batches_tracked")?,
        })
    }

    pub(super) fn weight(&self) -> &Var {
        &self.weight
    }

    pub(super) fn bias(&self) -> &Var {
        &self.bias
    }

    /// Running mean and variance, per channel.
    pub(super) fn running(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((values(&self.running_mean)?.to_vec(), values(&self.running_var)?.to_vec()))
    }

    /// The normalisation as a factor and a summand per channel, given means and inverse deviations.
    pub(super) fn affine(&self, mean: &[f32], inverse: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (weight, bias) = (values(&self.weight)?, values(&self.bias)?);
        let scale: Vec<f32> = weight.iter().zip(inverse).map(|(w, inverse)| w * inverse).collect();
        let shift = bias.iter().zip(mean).zip(&scale).map(|((b, mean), scale)| b - mean * scale).collect();
        Ok((scale, shift))
    }

    fn forward_gelu(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        if pass.is_training() {
            let (form, across) = (pass.form(), pass.across());
            let (y, statistics) = op::batch_norm_gelu_train(x, &self.weight, &self.bias, INNER_EPS, form, across)?;
            pass.note(statistics);
            return Ok(y);
        }
        let running = (&self.running_mean.as_detached_tensor(), &self.running_var.as_detached_tensor());
        op::batch_norm_gelu_evaluate(x, &self.weight, &self.bias, running, INNER_EPS, pass.form())
    }

    fn update_running(&self, statistics: &BatchStatistics) -> Result<()> {
        // PyTorch keeps the unbiased variance, and normalises by the biased one.
        let n = statistics.count as f64;
        let unbiased = (&statistics.variance * (n / (n - 1.0).max(1.0)))?;
        for (running, new) in [(&self.running_mean, &statistics.mean), (&self.running_var, &unbiased)] {
            running.set(&((running.as_detached_tensor() * (1.0 - MOMENTUM))? + (new * MOMENTUM)?)?)?;
        }
        let one = Tensor::ones((), candle_core::DType::I64, self.tracked.device())?;
        self.tracked.set(&(self.tracked.as_detached_tensor() + one)?)
    }
}
