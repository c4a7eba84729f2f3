//! Edges in words.

use arrow::datatypes::{DataType, Schema};
use omar_schemas::{
    Audio, AudioSpec, Crop, CropSpec, Edge, Embeddings, EmbeddingsSpec, Features, FeaturesSpec, Metrics, MetricsSpec,
    Pooling, Tokens, TokensSpec, edge_name,
};

/// What travels on an edge, with its constants: `features: mel 1876 frames x 96 bins at 75 Hz`.
pub fn words(schema: &Schema) -> String {
    let name = edge_name(schema).unwrap_or("rows");
    let known = match name {
        Audio::NAME => Audio::spec(schema).map(|spec| audio(&spec)),
        Crop::NAME => Crop::spec(schema).map(|spec| crop(&spec)),
        Features::NAME => Features::spec(schema).map(|spec| features(&spec)),
        Tokens::NAME => Tokens::spec(schema).map(|spec| tokens(&spec)),
        Embeddings::NAME => Embeddings::spec(schema).map(|spec| embeddings(&spec)),
        Metrics::NAME => Metrics::spec(schema).map(|spec| metrics(&spec)),
        _ => return plural(name),
    };
    known.unwrap_or_else(|_| plural(name))
}

/// The name of an edge as one says it: `crops`.
pub(crate) fn plural(edge: &str) -> String {
    match edge {
        "track" | "crop" | "embedding" | "label" | "prediction" | "score" | "reject" => format!("{edge}s"),
        _ => edge.to_owned(),
    }
}

fn audio(spec: &AudioSpec) -> String {
    match spec.sample_rate {
        Some(rate) => format!("audio at {rate} Hz"),
        None => "audio at the rate of each file".to_owned(),
    }
}

fn crop(spec: &CropSpec) -> String {
    let (seconds, samples, rate) = (number(spec.duration_s()), spec.samples, spec.sample_rate);
    format!("crops of {seconds} s ({samples} samples at {rate} Hz, {})", spec.policy)
}

fn features(spec: &FeaturesSpec) -> String {
    let views = spec.views.iter().map(|view| {
        let (name, frames, bins) = (&view.name, view.frames, view.bins);
        format!("{name} {frames} frames x {bins} bins at {} Hz", number(view.frame_rate(spec.sample_rate)))
    });
    format!("features: {}", views.collect::<Vec<_>>().join(", "))
}

fn tokens(spec: &TokensSpec) -> String {
    let streams = spec.streams.iter().map(|stream| {
        let (view, books, size) = (&stream.view, stream.codebooks, stream.codebook_size);
        format!("{view} {books} x {size}")
    });
    let (rate, positions) = (number(spec.token_rate()), spec.positions);
    format!("tokens: {positions} positions at {rate} Hz, codebooks {}", streams.collect::<Vec<_>>().join(", "))
}

fn embeddings(spec: &EmbeddingsSpec) -> String {
    let layers = spec.layers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let (rate, of) = (spec.rate.map_or_else(String::new, |rate| format!(" at {} Hz", number(rate))), &spec.model.name);
    let each = match spec.pooling {
        Pooling::Frames => "a position",
        Pooling::Window => "a window",
        Pooling::Track => "a recording",
    };
    format!("embeddings: layers {layers} of `{of}`, {} values for {each}{rate}", spec.dim)
}

fn metrics(spec: &MetricsSpec) -> String {
    format!("metrics of {} steps: {}", spec.steps, spec.streams.join(", "))
}

/// A number with at most three decimals.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Bytes of a row, as far as they are fixed; `None` when a column holds lists of any length.
pub fn bytes_per_row(schema: &Schema) -> Option<u64> {
    schema.fields().iter().map(|field| bytes(field.data_type())).sum()
}

fn bytes(data_type: &DataType) -> Option<u64> {
    match data_type {
        // Names and words: the text is not counted.
        DataType::Utf8 => Some(4),
        DataType::FixedSizeList(item, len) => Some(bytes(item.data_type())? * u64::try_from(*len).ok()?),
        other => other.primitive_width().map(|width| width as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omar_schemas::ViewSpec;

    #[test]
    fn edges_are_described_with_their_constants() {
        let mel = ViewSpec::new("mel", 96, 1876, 320);
        let schema = Features::schema(&FeaturesSpec { sample_rate: 24_000, crop_samples: 600_000, views: vec![mel] });
        assert_eq!(words(&schema), "features: mel 1876 frames x 96 bins at 75 Hz");
        let keys = 8 + 4 + 4 + 4 + 8 + 8;
        assert_eq!(bytes_per_row(&schema), Some(keys + 1876 * 96 * 4));
        assert_eq!(words(&Audio::schema(&AudioSpec { sample_rate: None })), "audio at the rate of each file");
    }
}
