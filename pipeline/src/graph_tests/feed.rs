//! What is fed to a graph under test: recordings that are there, and signals made up for the purpose.

use std::borrow::Cow;
use std::f64::consts::TAU;
use std::fmt;
use std::path::{Path, PathBuf};

use omar_stages::seed::Random;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::json;

/// The longest signal, in samples: a quarter of a gigabyte.
const LONGEST: f64 = 1.3e8;

/// A recording: the path of an audio file, or a signal.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed(pub Signal);

/// How a recording comes about.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// A file that is there.
    File(File),
    /// A tone.
    Sine(Sine),
    /// White noise, evenly distributed.
    Noise(Noise),
    /// Nothing to be heard.
    Silence(Silence),
    /// The first bytes of another recording, as when a copy was interrupted.
    Truncated(Truncated),
    /// Bytes that are no audio at all.
    Garbage(Garbage),
}

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where it is, from the folder where omar-flow runs.
    pub path: PathBuf,
    /// What it is used for.
    #[serde(default)]
    pub split: Split,
}

/// A tone, in a WAV file.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sine {
    /// Its frequency.
    pub hz: f64,
    /// Its length.
    pub seconds: f64,
    /// Samples per second.
    #[serde(default = "default_rate")]
    pub sample_rate: u32,
    /// From 0 to 1.
    #[serde(default = "default_amplitude")]
    pub amplitude: f64,
    /// What it is used for.
    #[serde(default)]
    pub split: Split,
}

/// White noise, in a WAV file.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Its length.
    pub seconds: f64,
    /// Samples per second.
    #[serde(default = "default_rate")]
    pub sample_rate: u32,
    /// From 0 to 1.
    #[serde(default = "default_amplitude")]
    pub amplitude: f64,
    /// Other seeds are other noise.
    #[serde(default)]
    pub seed: u64,
    /// What it is used for.
    #[serde(default)]
    pub split: Split,
}

/// Nothing to be heard, in a WAV file.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Silence {
    /// Its length.
    pub seconds: f64,
    /// Samples per second.
    #[serde(default = "default_rate")]
    pub sample_rate: u32,
    /// What it is used for.
    #[serde(default)]
    pub split: Split,
}

/// The first bytes of another recording.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Truncated {
    /// The whole recording.
    pub of: Box<Feed>,
    /// The share of its bytes that is left, from 0 to 1.
    #[serde(default = "default_keep")]
    pub keep: f64,
}

/// Bytes that are no audio, the same every time.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Garbage {
    /// How many.
    pub bytes: u32,
    /// What the name of the file promises.
    #[serde(default = "default_extension")]
    pub extension: String,
}

/// What a recording is used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// To learn from.
    #[default]
    Train,
    /// To choose by.
    Valid,
    /// To measure with.
    Test,
}

fn default_rate() -> u32 {
    44_100
}

fn default_amplitude() -> f64 {
    0.5
}

fn default_keep() -> f64 {
    0.5
}

fn default_extension() -> String {
    "wav".to_owned()
}

impl<'de> Deserialize<'de> for Feed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrSignal;
        impl<'de> Visitor<'de> for PathOrSignal {
            type Value = Feed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of an audio file, or a signal such as `{sine: {hz: 440, seconds: 5}}`")
            }
            fn visit_str<E: Error>(self, path: &str) -> Result<Feed, E> {
                Ok(Feed(Signal::File(File { path: path.into(), split: Split::default() })))
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Feed, M::Error> {
                let signal = Signal::deserialize(MapAccessDeserializer::new(map))?;
                signal.check().map_err(M::Error::custom)?;
                Ok(Feed(signal))
            }
        }
        deserializer.deserialize_any(PathOrSignal)
    }
}

impl JsonSchema for Feed {
    fn schema_name() -> Cow<'static, str> {
        "Feed".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let signal = generator.subschema_for::<Signal>();
        let about = "The path of an audio file, or a signal.";
        json_schema!({ "anyOf": [{ "type": "string" }, signal], "description": about })
    }
}

impl Signal {
    /// Whether the numbers make sense.
    fn check(&self) -> Result<(), String> {
        let share = |name: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(format!("`{name}` goes from 0 to 1, found {value}")),
        };
        let length = |seconds: f64, rate: u32| {
            let samples = seconds * f64::from(rate);
            if !(seconds > 0.0 && rate > 0) {
                return Err(format!("a signal has some length and rate, found {seconds} s at {rate} Hz"));
            }
            if samples > LONGEST {
                return Err(format!("{seconds} s at {rate} Hz are too long for a test"));
            }
            Ok(())
        };
        match self {
            Self::File(_) | Self::Garbage(_) => Ok(()),
            Self::Sine(sine) => {
                if !(sine.hz >= 0.0 && sine.hz.is_finite()) {
                    return Err(format!("`hz` is not negative, found {}", sine.hz));
                }
                length(sine.seconds, sine.sample_rate).and_then(|()| share("amplitude", sine.amplitude))
            }
            Self::Noise(noise) => {
                length(noise.seconds, noise.sample_rate).and_then(|()| share("amplitude", noise.amplitude))
            }
            Self::Silence(silence) => length(silence.seconds, silence.sample_rate),
            Self::Truncated(truncated) => share("keep", truncated.keep),
        }
    }

    fn split(&self) -> Split {
        match self {
            Self::File(File { split, .. })
            | Self::Sine(Sine { split, .. })
            | Self::Noise(Noise { split, .. })
            | Self::Silence(Silence { split, .. }) => *split,
            Self::Truncated(truncated) => truncated.of.0.split(),
            Self::Garbage(_) => Split::default(),
        }
    }

    /// Its name without the number that keeps it apart from others: what it is, with the extension of its format.
    fn name(&self) -> String {
        match self {
            Self::File(file) => {
                file.path.file_name().map_or("file".to_owned(), |name| name.to_string_lossy().into_owned())
            }
            Self::Sine(_) => "sine.wav".to_owned(),
            Self::Noise(_) => "noise.wav".to_owned(),
            Self::Silence(_) => "silence.wav".to_owned(),
            Self::Truncated(truncated) => format!("truncated_{}", truncated.of.0.name()),
            Self::Garbage(garbage) => format!("garbage.{}", garbage.extension),
        }
    }

    /// The bytes of the file.
    fn bytes(&self) -> Result<Vec<u8>, String> {
        Ok(match self {
            Self::File(file) => std::fs::read(&file.path).map_err(|error| unreadable(&file.path, &error))?,
            Self::Sine(sine) => wav(sine.seconds, sine.sample_rate, |index| {
                sine.amplitude * (TAU * sine.hz * index as f64 / f64::from(sine.sample_rate)).sin()
            }),
            Self::Noise(noise) => {
                let mut random = Random::new(noise.seed, &[0x6e_6f69_7365]);
                wav(noise.seconds, noise.sample_rate, |_| noise.amplitude * (2.0 * random.uniform() - 1.0))
            }
            Self::Silence(silence) => wav(silence.seconds, silence.sample_rate, |_| 0.0),
            Self::Truncated(truncated) => {
                let mut bytes = truncated.of.0.bytes()?;
                bytes.truncate((truncated.keep * bytes.len() as f64) as usize);
                bytes
            }
            Self::Garbage(garbage) => {
                let mut random = Random::new(0, &[0x6761_7262]);
                (0..garbage.bytes).map(|_| random.below(256) as u8).collect()
            }
        })
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("feed: `{}` cannot be read: {error} (paths start from the folder where you run omar-flow)", path.display())
}

/// Puts the recordings into a folder, with a list of them. Returns the path of the list, for `files`.
///
/// # Errors
/// When a file is not there, or the folder cannot be written; in words.
pub(super) fn write(folder: &Path, recordings: &[Feed]) -> Result<PathBuf, String> {
    let refused = |error: std::io::Error| format!("the recordings of a test cannot be written: {error}");
    std::fs::create_dir_all(folder).map_err(refused)?;
    let mut lines = String::new();
    for (index, Feed(signal)) in recordings.iter().enumerate() {
        let name = format!("{index:03}_{}", signal.name());
        let to = folder.join(&name);
        match signal {
            Signal::File(file) => {
                let path = file.path.canonicalize().map_err(|error| unreadable(&file.path, &error))?;
                link(&path, &to).map_err(refused)?;
            }
            made_up => std::fs::write(&to, made_up.bytes()?).map_err(refused)?,
        }
        let split = match signal.split() {
            Split::Train => "train",
            Split::Valid => "valid",
            Split::Test => "test",
        };
        // What is drawn for a recording depends on its id, which so is the same in every run.
        lines += &format!("{}\n", json!({ "path": name, "id": name, "split": split }));
    }
    let list = folder.join("recordings.jsonl");
    std::fs::write(&list, lines).map_err(refused)?;
    Ok(list)
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to).map(drop)
}

/// A mono WAV file of 16 bits.
fn wav(seconds: f64, sample_rate: u32, mut sample: impl FnMut(u64) -> f64) -> Vec<u8> {
    let samples = (seconds * f64::from(sample_rate)).round() as u32;
    let data = 2 * samples;
    let mut bytes = Vec::with_capacity(44 + data as usize);
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + data).to_le_bytes());
    // PCM, one channel, and below: bytes per second and per sample, bits.
    bytes.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend_from_slice(&sample_rate.to_le_bytes());
    bytes.extend_from_slice(&sample_rate.saturating_mul(2).to_le_bytes());
    bytes.extend_from_slice(b"\x02\0\x10\0data");
    bytes.extend_from_slice(&data.to_le_bytes());
    for index in 0..u64::from(samples) {
        let value = (sample(index) * f64::from(i16::MAX)).round() as i16;
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    fn feed(value: Value) -> Result<Feed, String> {
        from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn signals_are_written_with_a_list_that_names_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let sine = json!({"sine": {"hz": 440, "seconds": 0.5, "sample_rate": 8000, "split": "valid"}});
        let feeds = [
            sine.clone(),
            json!({"truncated": {"of": sine, "keep": 0.25}}),
            json!({"noise": {"seconds": 0.1, "seed": 3}}),
            json!({"silence": {"seconds": 0.1}}),
            json!({"garbage": {"bytes": 100, "extension": "mp3"}}),
        ];
        let feeds: Vec<Feed> = feeds.map(|value| feed(value).expect("a feed")).into();
        let list = write(folder.path(), &feeds).expect("written");
        let lines: Vec<Value> = std::fs::read_to_string(list)
            .expect("a list")
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line"))
            .collect();
        let names: Vec<&str> = lines.iter().filter_map(|line| line["path"].as_str()).collect();
        let expected =
            ["000_sine.wav", "001_truncated_sine.wav", "002_noise.wav", "003_silence.wav", "004_garbage.mp3"];
        assert_eq!(names, expected);
        assert_eq!((lines[0]["split"].as_str(), lines[2]["split"].as_str()), (Some("valid"), Some("train")));
        let sizes = expected.map(|name| std::fs::metadata(folder.path().join(name)).expect("a file").len());
        assert_eq!(sizes, [44 + 8000, (44 + 8000) / 4, 44 + 8820, 44 + 8820, 100]);
        let whole = std::fs::read(folder.path().join("000_sine.wav")).expect("a file");
        let samples: Vec<i16> =
            whole[44..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
        let crossings = samples.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
        assert!((219..=220).contains(&crossings), "{crossings} periods of 440 Hz in half a second");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (value, words) in [
            (json!({"sine": {"hz": 440, "seconds": 0}}), "some length"),
            (json!({"silence": {"seconds": 1e9}}), "too long"),
            (json!({"noise": {"seconds": 1, "amplitude": 2}}), "goes from 0 to 1"),
            (json!({"truncated": {"of": "a.wav", "keep": -1}}), "goes from 0 to 1"),
            (json!(7), "the path of an audio file, or a signal"),
        ] {
            let error = feed(value).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
        let gone = feed(json!("no/such/file.wav")).expect("a path");
        let folder = tempfile::tempdir().expect("a folder");
        let error = write(folder.path(), &[gone]).expect_err("gone");
        assert!(error.contains("`no/such/file.wav` cannot be read"), "{error}");
    }
}
