//! From a kernel's name and arguments to its launch.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::{CudaDevice, CudaStorage, DType, Error, Layout, Result, Storage, StorageRef, Tensor, bail};
use std::sync::OnceLock;

const SOURCE: &str = include_str!("kernels.cu");
/// The oldest GPUs that CUDA 13 knows; drivers translate for newer ones.
const ARCHITECTURE: &str = "compute_75";
/// Threads of a block.
pub(super) const THREADS: usize = 256;
/// Enough blocks to fill any GPU; loops in the kernels do the rest.
const MOST_BLOCKS: usize = 1 << 16;

/// An argument of a kernel, in the order of its parameters.
pub(super) enum Arg<'a> {
    /// A contiguous tensor of f32 or u32, read or, where the kernel says so, changed in place.
    Tensor(&'a Tensor),
    /// New values.
    New(&'a CudaSlice<f32>),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// Blocks and threads.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: (usize, usize, usize),
    pub(super) threads: usize,
}

impl Grid {
    /// A thread for each of `n` elements.
    pub(super) fn elements(n: usize) -> Self {
        Self { blocks: (n.div_ceil(THREADS).clamp(1, MOST_BLOCKS), 1, 1), threads: THREADS }
    }

    /// A block for each of `n` rows.
    pub(super) fn rows(n: usize) -> Self {
        Self { blocks: (n, 1, 1), threads: THREADS }
    }

    /// A thread for each column, for each of some pieces of the rows and `layers` sums.
    pub(super) fn columns(n: usize, pieces: usize, layers: usize) -> Self {
        Self { blocks: (n.div_ceil(128), pieces, layers), threads: 128 }
    }
}

/// The kernels as PTX.
pub(super) fn compile() -> Result<&'static str> {
    static PTX: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compiled = PTX.get_or_init(|| {
        let options = vec![format!("--gpu-architecture={ARCHITECTURE}"), "--std=c++17".to_owned()];
        let options = CompileOptions { options, name: Some("kernels.cu".to_owned()), ..CompileOptions::default() };
        compile_ptx_with_opts(SOURCE, options).map(|ptx| ptx.to_src()).map_err(|error| error.to_string())
    });
    compiled.as_deref().map_err(|error| Error::Msg(format!("the CUDA kernels do not compile: {error}")))
}

/// Room for new values.
#[allow(unsafe_code, reason = "the memory is written in full by the kernel that it is made for")]
pub(super) fn room(device: &CudaDevice, len: usize) -> Result<CudaSlice<f32>> {
    // SAFETY: every caller hands it to a kernel that writes all of it before anything reads it, on the same stream.
    unsafe { device.alloc::<f32>(len) }
}

/// New values as what candle keeps.
pub(super) fn storage(values: CudaSlice<f32>, device: &CudaDevice) -> Storage {
    Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()))
}

/// A tensor's values on the GPU.
enum View<'a> {
    Floats(CudaView<'a, f32>),
    Words(CudaView<'a, u32>),
    None,
}

/// Launches a kernel on the device's stream.
#[allow(unsafe_code, reason = "launching a kernel is a call that the compiler cannot check")]
pub(super) fn launch(device: &CudaDevice, name: &str, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
    let function = device.get_or_load_custom_func(name, "omar_flow", compile()?)?;
    let held: Vec<_> = args
        .iter()
        .map(|arg| match arg {
            Arg::Tensor(tensor) => Some((*tensor, tensor.storage_and_layout())),
            _ => None,
        })
        .collect();
    let views = held.iter().map(|held| view_of(name, held)).collect::<Result<Vec<_>>>()?;
    let mut builder = function.builder();
    for (arg, view) in args.iter().zip(&views) {
        match (arg, view) {
            (_, View::Floats(view)) => builder.arg(view),
            (_, View::Words(view)) => builder.arg(view),
            (Arg::New(values), View::None) => builder.arg(*values),
            (Arg::U32(value), View::None) => builder.arg(value),
            (Arg::U64(value), View::None) => builder.arg(value),
            (Arg::F32(value), View::None) => builder.arg(value),
            (Arg::Tensor(_), View::None) => bail!("{name}: a tensor has no values"),
        };
    }
    let (x, y, z) = grid.blocks;
    let config = LaunchConfig {
        grid_dim: (x as u32, y as u32, z as u32),
        block_dim: (grid.threads as u32, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: arguments are in the order and of the types of the kernel's parameters, and long enough for the extents
    // among them: the callers in `ops.rs` derive both from the tensors' shapes.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// A tensor that stays locked for reading until the launch is queued.
type Held<'a> = Option<(&'a Tensor, (StorageRef<'a>, &'a Layout))>;

fn view_of<'a>(name: &str, held: &'a Held<'a>) -> Result<View<'a>> {
    let Some((tensor, (storage, layout))) = held else { return Ok(View::None) };
    let (Some((start, end)), Storage::Cuda(storage)) = (layout.contiguous_offsets(), &**storage) else {
        bail!("{name}: a tensor is not contiguous, or not on the GPU")
    };
    match tensor.dtype() {
        DType::F32 => Ok(View::Floats(storage.as_cuda_slice::<f32>()?.slice(start..end))),
        DType::U32 => Ok(View::Words(storage.as_cuda_slice::<u32>()?.slice(start..end))),
        other => bail!("{name}: expected f32 or u32 values, found {other:?}"),
    }
}
