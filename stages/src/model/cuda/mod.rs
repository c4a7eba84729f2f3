//! Fused CUDA kernels in place of candle's operations: `kernels.cu`, compiled by NVRTC when a GPU first needs them.
//!
//! Off unless `OMAR_CUDA_KERNELS=1` is in the environment: they are to be checked on a GPU first, by
//! `cargo run --release --features cuda --example check_cuda`. Their arithmetic is checked on the CPU, where a block of
//! threads is emulated, by `on_host.rs`.

mod launch;
mod ops;

pub(crate) use ops::{
    adamw, batch_norm_gelu_train, cross_entropy, depthwise, dropout, gelu, glu, layer_norm, residual,
};

use candle_core::{DType, Tensor};
use std::sync::atomic::{AtomicU8, Ordering};

/// 0: not decided, 1: off, 2: on.
static SWITCH: AtomicU8 = AtomicU8::new(0);

/// Switches the kernels on or off for the whole program, whatever the environment says.
pub fn use_cuda_kernels(on: bool) {
    SWITCH.store(if on { 2 } else { 1 }, Ordering::Relaxed);
}

/// Whether the kernels compute for such a tensor.
pub(crate) fn serve(x: &Tensor) -> bool {
    x.device().is_cuda() && x.dtype() == DType::F32 && is_on()
}

fn is_on() -> bool {
    if SWITCH.load(Ordering::Relaxed) == 0 {
        use_cuda_kernels(std::env::var_os("OMAR_CUDA_KERNELS").is_some_and(|value| value == "1"));
    }
    SWITCH.load(Ordering::Relaxed) == 2
}

#[cfg(test)]
mod tests {
    /// NVRTC needs no GPU: every kernel that is launched by name is there.
    #[test]
    fn kernels_compile() {
        let ptx = super::launch::compile().expect("NVRTC compiles the kernels");
        for name in super::ops::NAMES {
            assert!(ptx.contains(&format!(".entry {name}(")), "no kernel `{name}`");
        }
        assert_eq!(ptx.matches(".entry ").count(), super::ops::NAMES.len());
    }
}
