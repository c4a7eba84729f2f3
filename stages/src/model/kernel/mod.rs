//! Slices in, slices out: the inner loops of the model on a CPU.
//!
//! Two rules hold here. Work is cut into pieces of a fixed size and partial sums are added in the order of the pieces,
//! so that a result has the same bits for any number of threads. Loops run over whole vectors without data-dependent
//! branches, so that the compiler turns them into vector instructions without `unsafe`.

pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod depthwise;
pub(crate) mod gemm;
pub(crate) mod maths;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod packed;
pub(crate) mod pool;
pub(crate) mod rows;
pub(crate) mod storage;
mod tile;
