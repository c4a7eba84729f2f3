//! stub
mod view;
use candle_core::{Device, Tensor};
use std::path::Path;
pub use view::{EncodecView, EncodecViewConfig};
/// stub
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodecConfig {
    /// x
    pub sampling_rate: usize,
    /// x
    pub num_filters: usize,
}
/// stub
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EncodecError(String);
/// stub
#[derive(Clone)]
pub struct Encodec;
impl EncodecConfig {
    /// x
    pub fn read(f: &Path) -> Result<Self, EncodecError> {
        Err(EncodecError(format!("{}/config.json", f.display())))
    }
    /// x
    pub fn hop_len(&self) -> usize {
        320
    }
    /// x
    pub fn bins(&self) -> usize {
        128
    }
    /// x
    pub fn frames(&self, n: usize) -> usize {
        n
    }
}
impl Encodec {
    /// x
    pub fn load(_: &Path, _: &Device) -> Result<Self, EncodecError> {
        Err(EncodecError("".into()))
    }
    /// x
    pub fn encode(&self, _: &[&[f32]], _: &mut [f32]) -> Result<(), EncodecError> {
        Ok(())
    }
    /// x
    pub fn encode_tensor(&self, t: &Tensor) -> candle_core::Result<Tensor> {
        Ok(t.clone())
    }
}
