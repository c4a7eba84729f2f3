//! The devices that models run on: which there are, and why one cannot be used.

use candle_core::Device;
use thiserror::Error;

/// Whether this build can run models on NVIDIA GPUs: the feature `cuda`.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// An NVIDIA GPU, as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Number, as in `cuda:N`.
    pub index: usize,
    /// What it is called.
    pub name: String,
    /// Its memory, bytes.
    pub memory: u64,
    /// Compute capability, as `(8, 0)` of an A100.
    pub capability: (i32, i32),
}

/// Why a device cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The name is none.
    #[error("device `{0}`: expected `cpu` or `cuda:N`; the first GPU is `cuda:0`")]
    Name(String),
    /// The program was built for the CPU only.
    #[error(
        "this program was built without GPU support: build it with `cargo build --release --features cuda` \
         (scripts/cuda_toolkit.sh sets up what that needs)"
    )]
    NotBuilt,
    /// The driver does not answer, or has no GPU.
    #[error(
        "no NVIDIA GPU answers ({0}): see that a driver for CUDA 12 or later is installed and `nvidia-smi` lists a GPU"
    )]
    NoGpu(String),
    /// There are GPUs, but not this one.
    #[error("there is no cuda:{index}: the last GPU is cuda:{}", count.saturating_sub(1))]
    NoSuchGpu {
        /// The GPU asked for.
        index: usize,
        /// How many there are, at least 1.
        count: usize,
    },
    /// The GPU is there, and fails.
    #[error(
        "cuda:{index} ({name}, compute capability {}.{}) fails: {reason}; the program runs on GPUs from the one it was \
         built for (CUDA_COMPUTE_CAP) onwards, with a driver as new as its CUDA",
        capability.0, capability.1
    )]
    Fails {
        /// The GPU asked for.
        index: usize,
        /// What it is called.
        name: String,
        /// Its compute capability.
        capability: (i32, i32),
        /// What went wrong.
        reason: String,
    },
}

/// The GPUs that the driver lists, at least one.
///
/// # Errors
/// When the program was built without GPU support, or no GPU answers.
pub fn gpus() -> Result<Vec<Gpu>, DeviceError> {
    cuda::gpus()
}

/// Opens a device by its name, `cpu` or `cuda:N`, and sees that a GPU can compute.
///
/// All work on a GPU goes through one stream of its own, in order, whichever thread issues it.
///
/// # Errors
/// When it has no such name or cannot be used.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let index = name.strip_prefix("cuda:").and_then(|index| index.parse().ok());
    cuda::open(index.ok_or_else(|| DeviceError::Name(name.to_owned()))?)
}

/// The device that `auto` stands for: a GPU, else the CPU, with what kept the GPU from being used. Of several processes
/// on one machine, each takes another GPU: `nth` counts them, and the first takes the first.
pub fn automatic(nth: usize) -> (String, Option<DeviceError>) {
    let index = cuda::gpus().map_or(0, |gpus| nth % gpus.len().max(1));
    match cuda::open(index) {
        Ok(_) => (format!("cuda:{index}"), None),
        Err(error) => ("cpu".to_owned(), Some(error)),
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::{Device, DeviceError, Gpu};

    pub(super) fn gpus() -> Result<Vec<Gpu>, DeviceError> {
        Err(DeviceError::NotBuilt)
    }

    pub(super) fn open(_: usize) -> Result<Device, DeviceError> {
        Err(DeviceError::NotBuilt)
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::{Device, DeviceError, Gpu};
    use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};
    use candle_core::{DType, Result as CandleResult, Tensor};

    pub(super) fn gpus() -> Result<Vec<Gpu>, DeviceError> {
        let refused = |error: DriverError| DeviceError::NoGpu(error.to_string());
        let count = CudaContext::device_count().map_err(refused)? as usize;
        if count == 0 {
            return Err(DeviceError::NoGpu("the driver lists none".to_owned()));
        }
        let describe = |index: usize| -> Result<Gpu, DriverError> {
            let gpu = CudaContext::new(index)?;
            let (name, memory, capability) = (gpu.name()?, gpu.total_mem()? as u64, gpu.compute_capability()?);
            Ok(Gpu { index, name, memory, capability })
        };
        (0..count).map(|index| describe(index).map_err(refused)).collect()
    }

    pub(super) fn open(index: usize) -> Result<Device, DeviceError> {
        let gpus = gpus()?;
        let gpu = gpus.get(index).ok_or(DeviceError::NoSuchGpu { index, count: gpus.len() })?;
        let works = || -> CandleResult<Device> {
            // A stream of its own: candle's default is one stream per thread, and operators start on one thread and
            // run on another.
            let device = Device::new_cuda_with_stream(index)?;
            let ones = Tensor::ones((4, 4), DType::F32, &device)?;
            ones.matmul(&ones)?.sum_all()?.to_scalar::<f32>()?;
            Ok(device)
        };
        works().map_err(|error| DeviceError::Fails {
            index,
            name: gpu.name.clone(),
            capability: gpu.capability,
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_what_is_missing_is_said() {
        assert!(matches!(open("cpu"), Ok(Device::Cpu)));
        let error = open("gpu").expect_err("no such name").to_string();
        assert_eq!(error, "device `gpu`: expected `cpu` or `cuda:N`; the first GPU is `cuda:0`");
        if !HAS_CUDA {
            let error = open("cuda:0").expect_err("built without").to_string();
            assert!(error.contains("--features cuda") && error.contains("scripts/cuda_toolkit.sh"), "{error}");
        }
    }

    #[test]
    fn automatic_is_a_device_that_opens() {
        let (name, obstacle) = automatic(0);
        assert!(open(&name).is_ok());
        assert_eq!(name == "cpu", obstacle.is_some());
    }
}
