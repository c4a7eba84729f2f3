//! What an encoder is: `config.json` of the published layout, and the layers that follow from it.

use std::path::Path;

use serde_json::{Map, Value};

use super::EncodecError;
use super::network::{ConvolutionShape, LstmShape, Network, Residual, Stage};

/// File that describes an encoder.
pub(super) const CONFIG_FILE: &str = "config.json";
/// Largest size that a field may have; the published ones are below 1024.
const MAX: u64 = 1 << 14;

/// The fields of `config.json` that shape the encoder. Absent fields have the defaults of the published layout, which
/// are those of the 24 kHz model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodecConfig {
    /// Samples per second of the audio. Default 24000.
    pub sampling_rate: usize,
    /// Channels after the first convolution; doubled by every stage. Default 32.
    pub num_filters: usize,
    /// Values per output frame. Default 128.
    pub hidden_size: usize,
    /// Residual blocks per stage. Default 1.
    pub num_residual_layers: usize,
    /// Rate factors of the decoder, thus in reverse those of the encoder. Default 8, 5, 4, 2.
    pub upsampling_ratios: Vec<usize>,
    /// Kernel of the first convolution. Default 7.
    pub kernel_size: usize,
    /// Kernel of the last convolution. Default 7.
    pub last_kernel_size: usize,
    /// Kernel of the first convolution of a residual block. Default 3.
    pub residual_kernel_size: usize,
    /// Dilation of block `j` of a stage is this to the power `j`. Default 2.
    pub dilation_growth_rate: usize,
    /// Channels of a stage over those inside its residual blocks. Default 2.
    pub compress: usize,
    /// Layers of the LSTM. Default 2.
    pub num_lstm_layers: usize,
    /// Whether a residual block's skip connection is a convolution. Default true.
    pub use_conv_shortcut: bool,
}

impl EncodecConfig {
    /// Reads `config.json` of a folder, without touching the weights.
    ///
    /// # Errors
    /// [`EncodecError::File`], [`EncodecError::Format`], or [`EncodecError::Config`] for a field whose value this
    /// encoder does not support.
    pub fn read(folder: &Path) -> Result<Self, EncodecError> {
        let path = folder.join(CONFIG_FILE);
        let text = std::fs::read(&path).map_err(|source| EncodecError::File { path: path.clone(), source })?;
        let fields = serde_json::from_slice(&text).map_err(|error| EncodecError::Format {
            path: path.clone(),
            format: "JSON",
            reason: error.to_string(),
        })?;
        Fields { path: &path, fields: &fields }.config()
    }

    /// Samples per frame: 320 for the published model.
    pub fn hop_len(&self) -> usize {
        self.upsampling_ratios.iter().product()
    }

    /// Values per frame: 128 for the published model.
    pub const fn bins(&self) -> usize {
        self.hidden_size
    }

    /// Frames of `samples` samples: the last frame may be partly filled.
    pub fn frames(&self, samples: usize) -> usize {
        samples.div_ceil(self.hop_len())
    }

    /// Every layer, named as in the published layout.
    pub(super) fn network(&self) -> Network<ConvolutionShape, LstmShape> {
        let mut index = 0;
        let mut next = |skip: usize| {
            let name = format!("encoder.layers.{index}");
            index += 1 + skip;
            name
        };
        let shape = |name: String, in_channels, out_channels, kernel, stride, dilation| ConvolutionShape {
            name,
            in_channels,
            out_channels,
            kernel,
            stride,
            dilation,
        };
        let mut channels = self.num_filters;
        let first = shape(next(0), 1, channels, self.kernel_size, 1, 1);
        let mut stages = Vec::new();
        for ratio in self.upsampling_ratios.iter().rev() {
            let hidden = channels / self.compress;
            let mut residuals = Vec::new();
            for layer in 0..self.num_residual_layers {
                // An ELU, which has no weights, takes the index after the last block.
                let name = next(usize::from(layer + 1 == self.num_residual_layers));
                let dilation = self.dilation_growth_rate.pow(layer as u32);
                residuals.push(Residual {
                    inner: shape(format!("{name}.block.1"), channels, hidden, self.residual_kernel_size, 1, dilation),
                    outer: shape(format!("{name}.block.3"), hidden, channels, 1, 1, 1),
                    shortcut: self
                        .use_conv_shortcut
                        .then(|| shape(format!("{name}.shortcut"), channels, channels, 1, 1, 1)),
                });
            }
            let down = shape(next(0), channels, 2 * channels, 2 * ratio, *ratio, 1);
            stages.push(Stage { residuals, down });
            channels *= 2;
        }
        let lstm_name = next(1);
        let lstm = (0..self.num_lstm_layers)
            .map(|layer| LstmShape { name: format!("{lstm_name}.lstm"), layer, size: channels })
            .collect();
        let last = shape(next(0), channels, self.hidden_size, self.last_kernel_size, 1, 1);
        Network { first, stages, lstm, last }
    }
}

/// The fields of a file, which its messages name.
struct Fields<'a> {
    path: &'a Path,
    fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn config(&self) -> Result<EncodecConfig, EncodecError> {
        for (field, expected) in [
            ("model_type", Value::from("encodec")),
            ("audio_channels", Value::from(1)),
            ("normalize", Value::from(false)),
            ("chunk_length_s", Value::Null),
            ("use_causal_conv", Value::from(true)),
            ("pad_mode", Value::from("reflect")),
        ] {
            self.only(field, &expected)?;
        }
        let norm = self.fields.get("norm_type");
        if norm.is_some_and(|norm| norm != "weight_norm" && norm != "none") {
            return Err(self.refuse("norm_type", "\"weight_norm\" or \"none\""));
        }
        let config = EncodecConfig {
            sampling_rate: self.size("sampling_rate", 24_000, 1 << 20)?,
            num_filters: self.size("num_filters", 32, MAX)?,
            hidden_size: self.size("hidden_size", 128, MAX)?,
            num_residual_layers: self.size("num_residual_layers", 1, 8)?,
            upsampling_ratios: self.ratios()?,
            kernel_size: self.size("kernel_size", 7, MAX)?,
            last_kernel_size: self.size("last_kernel_size", 7, MAX)?,
            residual_kernel_size: self.size("residual_kernel_size", 3, MAX)?,
            dilation_growth_rate: self.size("dilation_growth_rate", 2, 8)?,
            compress: self.size("compress", 2, MAX)?,
            num_lstm_layers: self.size("num_lstm_layers", 2, 16)?,
            use_conv_shortcut: match self.fields.get("use_conv_shortcut") {
                None => true,
                Some(value) => value.as_bool().ok_or_else(|| self.refuse("use_conv_shortcut", "true or false"))?,
            },
        };
        if config.compress > config.num_filters {
            return Err(self.refuse("compress", format!("at most num_filters, {}", config.num_filters)));
        }
        Ok(config)
    }

    /// A field that may be absent but has no value other than one.
    fn only(&self, field: &'static str, expected: &Value) -> Result<(), EncodecError> {
        match self.fields.get(field) {
            Some(found) if found != expected => Err(self.refuse(field, expected.to_string())),
            _ => Ok(()),
        }
    }

    /// An integer from 1 to `max`.
    fn size(&self, field: &'static str, default: usize, max: u64) -> Result<usize, EncodecError> {
        let Some(value) = self.fields.get(field) else { return Ok(default) };
        match value.as_u64() {
            Some(size) if (1..=max).contains(&size) => Ok(size as usize),
            _ => Err(self.refuse(field, format!("an integer from 1 to {max}"))),
        }
    }

    fn ratios(&self) -> Result<Vec<usize>, EncodecError> {
        let Some(value) = self.fields.get("upsampling_ratios") else { return Ok(vec![8, 5, 4, 2]) };
        let ratio = |value: &Value| value.as_u64().filter(|ratio| (1..=64).contains(ratio)).map(|ratio| ratio as usize);
        let ratios: Option<Vec<usize>> = value.as_array().and_then(|list| list.iter().map(ratio).collect());
        ratios
            .filter(|ratios| (1..=6).contains(&ratios.len()))
            .ok_or_else(|| self.refuse("upsampling_ratios", "a list of 1 to 6 integers from 1 to 64"))
    }

    fn refuse(&self, field: &'static str, expected: impl Into<String>) -> EncodecError {
        let found = self.fields.get(field).map_or_else(|| "absent".to_string(), Value::to_string);
        EncodecError::Config { path: self.path.to_path_buf(), field, found, expected: expected.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<EncodecConfig, String> {
        let fields = serde_json::from_str(json).unwrap();
        let path = Path::new("encodec/config.json");
        Fields { path, fields: &fields }.config().map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_describes_the_published_model() {
        let config = parse("{}").unwrap();
        assert_eq!((config.hop_len(), config.bins(), config.sampling_rate), (320, 128, 24_000));
        assert_eq!((config.frames(720_000), config.frames(1), config.frames(321), config.frames(0)), (2250, 1, 2, 0));
        let network = config.network();
        let names: Vec<&str> = network.stages.iter().map(|stage| stage.down.name.as_str()).collect();
        assert_eq!(names, ["encoder.layers.3", "encoder.layers.6", "encoder.layers.9", "encoder.layers.12"]);
        assert_eq!(network.stages[2].residuals[0].inner.name, "encoder.layers.7.block.1");
        assert_eq!((network.lstm[1].name.as_str(), network.lstm[1].size), ("encoder.layers.13.lstm", 512));
        assert_eq!(network.last.name, "encoder.layers.15");
    }

    #[test]
    fn names_follow_the_number_of_residual_layers() {
        let network = parse(r#"{"num_residual_layers": 2, "upsampling_ratios": [3, 2]}"#).unwrap().network();
        assert_eq!(network.stages[0].residuals[1].inner.name, "encoder.layers.2.block.1");
        assert_eq!(network.stages[0].residuals[1].inner.dilation, 2);
        assert_eq!(network.stages[0].down.name, "encoder.layers.4");
        assert_eq!(network.stages[0].down.stride, 2);
        assert_eq!(network.stages[1].residuals[0].inner.name, "encoder.layers.5.block.1");
        assert_eq!(network.last.name, "encoder.layers.11");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_field() {
        for (json, field, expected) in [
            (r#"{"model_type": "mimi"}"#, "`model_type` is \"mimi\"", "expected \"encodec\""),
            (r#"{"audio_channels": 2}"#, "`audio_channels` is 2", "expected 1"),
            (r#"{"use_causal_conv": false}"#, "`use_causal_conv` is false", "expected true"),
            (r#"{"normalize": true}"#, "`normalize` is true", "expected false"),
            (r#"{"chunk_length_s": 1.0}"#, "`chunk_length_s` is 1.0", "expected null"),
            (r#"{"pad_mode": "constant"}"#, "`pad_mode` is \"constant\"", "expected \"reflect\""),
            (
                r#"{"norm_type": "time_group_norm"}"#,
                "`norm_type` is \"time_group_norm\"",
                "\"weight_norm\" or \"none\"",
            ),
            (r#"{"num_filters": 0}"#, "`num_filters` is 0", "an integer from 1 to"),
            (r#"{"hidden_size": "128"}"#, "`hidden_size` is \"128\"", "an integer from 1 to"),
            (r#"{"upsampling_ratios": [8, 0]}"#, "`upsampling_ratios` is [8,0]", "a list of 1 to 6 integers"),
            (r#"{"compress": 64}"#, "`compress` is 64", "at most num_filters, 32"),
            (r#"{"use_conv_shortcut": 1}"#, "`use_conv_shortcut` is 1", "true or false"),
        ] {
            let message = parse(json).unwrap_err();
            assert!(message.starts_with("encodec/config.json: ") && message.contains(field), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }
}
