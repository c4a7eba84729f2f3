//! Ranks whose GPUs add up buckets by NVIDIA's NCCL.

use super::{Collective, CollectiveError, Pending};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DriverError};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Storage, Tensor};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// One rank of several, each with a GPU of its own.
///
/// Buckets are added up on a stream beside the model's, so that the backward pass goes on meanwhile. Small vectors, bytes
/// and barriers go the way of the collective for hosts that this one is made from, over which the ranks also find each
/// other. Sums are the same bits on every rank, but NCCL chooses their order: runs repeat bit by bit on the same machines
/// only.
pub struct Nccl {
    host: Arc<dyn Collective>,
    communicator: Mutex<Communicator>,
    device: CudaDevice,
    stream: Arc<CudaStream>,
}

/// NCCL's communicator, which may be used by one thread at a time, whichever it is.
struct Communicator(Comm);

#[allow(unsafe_code, reason = "the communicator is a pointer that NCCL lets any thread use, one at a time")]
// SAFETY: NCCL binds a communicator to a device and not to a thread; `Nccl` holds it in a mutex.
unsafe impl Send for Communicator {}

impl Nccl {
    /// Connects the ranks of `host`, each of which calls this with the device of its model.
    ///
    /// # Errors
    /// When the device is no GPU, a rank is lost, or NCCL cannot connect the GPUs.
    pub fn connect(host: Arc<dyn Collective>, device: &Device) -> Result<Self, CollectiveError> {
        let device = device.as_cuda_device()?.clone();
        let context = device.cuda_stream().context().clone();
        context.bind_to_thread().map_err(failed)?;
        // Rank 0 draws the id of the group, and all others hear it.
        let drawn = if host.rank() == 0 { Some(Id::new().map_err(|error| refused(&error))?) } else { None };
        let bytes = drawn.map_or_else(Vec::new, |id| id.internal().iter().map(|byte| *byte as u8).collect());
        let bytes = host.broadcast(bytes)?;
        let Ok(id) = <[u8; 128]>::try_from(&bytes[..]) else {
            return Err(CollectiveError::OutOfStep(format!("an id has 128 bytes, rank 0 gave {}", bytes.len())));
        };
        let id = Id::uninit(id.map(|byte| byte as std::ffi::c_char));
        let stream = context.new_stream().map_err(failed)?;
        let comm = Comm::from_rank(stream.clone(), host.rank(), host.size(), id).map_err(|error| refused(&error))?;
        Ok(Self { host, communicator: Mutex::new(Communicator(comm)), device, stream })
    }
}

fn failed(error: DriverError) -> CollectiveError {
    CollectiveError::Lost(format!("the GPU failed: {error}"))
}

fn refused(error: &NcclError) -> CollectiveError {
    CollectiveError::Lost(format!("NCCL failed: {:?}; NCCL_DEBUG=WARN in the environment says more", error.0))
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nccl").field("host", &self.host).field("device", &self.device).finish_non_exhaustive()
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn size(&self) -> usize {
        self.host.size()
    }

    fn start_sum(&self, bucket: Tensor) -> Result<Box<dyn Pending>, CollectiveError> {
        let bucket = bucket.contiguous()?;
        let len = bucket.elem_count();
        self.stream.context().bind_to_thread().map_err(failed)?;
        let mut sum = self.device.alloc_zeros::<f32>(len)?;
        // The bucket and the place for its sum were written on the model's stream.
        self.stream.join(&self.device.cuda_stream()).map_err(failed)?;
        {
            let (storage, layout) = bucket.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(CollectiveError::OutOfStep("a bucket is not on the GPU".to_owned()));
            };
            let start = layout.start_offset();
            let values = storage.as_cuda_slice::<f32>()?.slice(start..start + len);
            let communicator = self.communicator.lock().unwrap_or_else(PoisonError::into_inner);
            communicator.0.all_reduce(&values, &mut sum, &ReduceOp::Sum).map_err(|error| refused(&error))?;
        }
        Ok(Box::new(Sum { bucket, sum, device: self.device.clone(), stream: self.stream.clone() }))
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        self.host.sum(values)
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>, CollectiveError> {
        self.host.broadcast(bytes)
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.host.barrier()
    }
}

/// A sum that NCCL works on.
#[derive(Debug)]
struct Sum {
    /// Read until the sum is complete.
    bucket: Tensor,
    sum: CudaSlice<f32>,
    device: CudaDevice,
    stream: Arc<CudaStream>,
}

impl Pending for Sum {
    fn wait(self: Box<Self>) -> Result<Tensor, CollectiveError> {
        // The host goes on; what the model does next on its stream waits for the sum.
        self.device.cuda_stream().join(&self.stream).map_err(failed)?;
        let shape = self.bucket.shape().clone();
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(self.sum, self.device.clone()));
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }
}
