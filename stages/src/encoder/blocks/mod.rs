//! What the families have in common: named tensors, transformer blocks, convolutions over time, mel spectra.

mod convolution;
mod kept;
mod linear;
mod reader;
mod spectrogram;
mod transformer;

pub(super) use convolution::TimeConvolution;
pub(super) use kept::Kept;
pub(super) use linear::{Activation, Affine, Linear, Then};
pub(super) use reader::{Part, Reader, renamed};
pub(super) use spectrogram::{Logarithm, MelBands, MelFrames};
pub(super) use transformer::{AttentionNames, FeedForward, Norm, NormAt, SelfAttention, TransformerBlock, attended};
