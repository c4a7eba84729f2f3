//! What the families have in common: named tensors, transformer blocks, convolutions over time, mel spectra.

mod convolution;
mod kept;
mod reader;
mod spectrogram;
mod transformer;

pub(super) use convolution::TimeConvolution;
pub(super) use kept::Kept;
pub(super) use reader::{Part, Reader, renamed};
pub(super) use spectrogram::{Logarithm, MelBands, MelFrames};
pub(super) use transformer::{
    Activation, AttentionNames, FeedForward, Linear, Norm, NormAt, SelfAttention, TransformerBlock, attended,
};
