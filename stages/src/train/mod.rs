//! Training: everything that changes weights.
//!
//! The principal types: [`Trainer`] takes a [`Minibatch`] at a time and gives [`StepMetrics`]; [`TrainerConfig`] says how
//! it masks, optimises and schedules; [`Checkpoint`] is what it leaves on disk. A trainer that is saved and resumed goes
//! on with the same bits as one that never stopped, on the CPU: nothing random has a state, since every draw is a
//! function of the seed, the step and the crop.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use omar_stages::model::{ConformerConfig, MaskMethod, MaskedModelConfig, Masking};
//! use omar_stages::train::{CropKey, Minibatch, OptimizerConfig, Trainer, TrainerConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = TrainerConfig {
//!     model: MaskedModelConfig { conformer: ConformerConfig::new(1, 16, 2), patch_dim: 8, codebook_size: 32, streams: 1 },
//!     masking: Masking { probability: 0.6, spans: vec![5], method: MaskMethod::Noise },
//!     optimizer: OptimizerConfig::default(),
//!     steps: 10,
//!     accumulate: 1,
//!     recompute: false,
//! };
//! let mut trainer = Trainer::new(config, &Device::Cpu, 142)?;
//! let minibatch = Minibatch {
//!     patches: Tensor::zeros((2, 20, 8), DType::F32, &Device::Cpu)?,
//!     tokens: Tensor::zeros((2, 20, 1), DType::U32, &Device::Cpu)?,
//!     keys: vec![CropKey { track: 1, crop: 0 }, CropKey { track: 2, crop: 0 }],
//! };
//! assert_eq!(trainer.step(&minibatch)?.step, 1);
//! # Ok(())
//! # }
//! ```

mod adamw;
mod checkpoint;
mod collective;
mod error;
mod loss;
mod schedule;
mod shuffle;
mod trainer;

pub use adamw::{AdamW, AdamWConfig, Gradients, Groups, first_not_finite, global_norm};
pub use checkpoint::{Checkpoint, State, latest, prune};
#[cfg(feature = "nccl")]
pub use collective::Nccl;
pub use collective::{Collective, CollectiveError, Pending, Solo, threads};
pub use error::TrainError;
pub use loss::{HeadGradients, HeadLoss, head_loss};
pub use schedule::{Decay, Schedule};
pub use shuffle::{Cursor, Place, Shuffle};
pub use trainer::{
    CropKey, Decayed, Minibatch, OptimizerConfig, ParameterGroup, Predictions, StepMetrics, Trainer, TrainerConfig,
    ValidMetrics,
};
