//! Runs the omar-flow program on a small corpus of its own.

#![allow(unreachable_pub, reason = "the module is compiled into every test on its own")]
#![allow(dead_code, reason = "every test file uses the part that it needs")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A folder with audio, a graph, and room for runs.
pub struct Program {
    folder: TempDir,
}

/// What the graph of the tests looks like: from WAV files to tokens, and on to a model when `train` is true.
pub struct Options {
    /// Recordings.
    pub tracks: usize,
    /// Train at the end.
    pub train: bool,
    /// Steps of training.
    pub steps: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { tracks: 12, train: false, steps: 6 }
    }
}

impl Program {
    /// A corpus of short recordings and `graph.yaml`.
    pub fn new(options: &Options) -> Self {
        let program = Self { folder: TempDir::new().unwrap() };
        fs::create_dir(program.path("audio")).unwrap();
        for track in 0..options.tracks {
            // 2.5 s to 7 s, so that some crops are padded.
            let seconds = 2.5 + 0.5 * (track % 10) as f64;
            write_wav(&program.path(&format!("audio/track_{track:03}.wav")), 16_000, seconds, track as u64);
        }
        let mut graph = GRAPH.to_owned();
        if options.train {
            graph += &MODEL.replace("STEPS", &options.steps.to_string());
        }
        fs::write(program.path("graph.yaml"), graph).unwrap();
        program
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with these arguments, in the folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_omar-flow"));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null()).env("NO_COLOR", "1");
        command
    }

    /// Runs it to its end.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it, expects success, and returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "omar-flow {args:?}: {}\n{stdout}\n{stderr}", output.status);
        stdout
    }

    /// Runs it with `--json`, expects success, and returns the summary.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    /// Starts it without waiting.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The bytes of all parquet files in the cache, by file name.
    pub fn cache(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for path in walk(&self.path("cache")) {
            if path.extension().is_some_and(|extension| extension == "parquet") {
                let name = path.strip_prefix(self.path("cache")).unwrap().to_string_lossy().into_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
        files
    }

    /// Forgets caches and runs.
    pub fn clear(&self) {
        for folder in ["cache", "runs"] {
            let _absent = fs::remove_dir_all(self.path(folder));
        }
    }

    /// The folders of all runs, oldest first.
    pub fn runs(&self) -> Vec<PathBuf> {
        let mut runs: Vec<PathBuf> = fs::read_dir(self.path("runs")).unwrap().map(|run| run.unwrap().path()).collect();
        runs.sort();
        runs
    }

    /// The file of that name below a run that comes last in the alphabet, e.g. the model of the last checkpoint.
    pub fn last_below(&self, run: &Path, name: &str) -> Vec<u8> {
        let mut files: Vec<PathBuf> = walk(run).into_iter().filter(|path| path.ends_with(name)).collect();
        files.sort();
        fs::read(files.last().unwrap_or_else(|| panic!("no {name} below {}", run.display()))).unwrap()
    }
}

/// All files below a folder.
pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes a recording: three tones that change every half second, and some noise; different for every seed.
pub fn write_wav(path: &Path, rate: u32, seconds: f64, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let samples = (0..(seconds * f64::from(rate)) as u32).map(|i| {
        let t = f64::from(i) / f64::from(rate);
        let note = (seed * 7 + (t * 2.0) as u64 * 5) % 24;
        let pitch = 110.0 * 2f64.powf(note as f64 / 12.0);
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let noise = (state >> 40) as f64 / f64::from(1u32 << 24) - 0.5;
        let tone: f64 = (1..4).map(|k| (TAU * pitch * f64::from(k) * t).sin() / f64::from(k)).sum();
        0.25 * tone + 0.05 * noise
    });
    write_samples(path, rate, &samples.collect::<Vec<_>>());
}

/// Writes a mono recording of 16 bits from samples between -1 and 1.
pub fn write_samples(path: &Path, rate: u32, samples: &[f64]) {
    let n = samples.len() as u32;
    let mut bytes = Vec::with_capacity(44 + 2 * samples.len());
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + 2 * n).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend_from_slice(&rate.to_le_bytes());
    bytes.extend_from_slice(&(2 * rate).to_le_bytes());
    bytes.extend_from_slice(b"\x02\0\x10\0data");
    bytes.extend_from_slice(&(2 * n).to_le_bytes());
    samples.iter().for_each(|sample| bytes.extend_from_slice(&((sample * 32_000.0) as i16).to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

const GRAPH: &str = r#"omar: 1
name: test
seed: 7
nodes:
  tracks:  {stage: files, params: {root: audio, valid_fraction: 0.2}}
  audio:   {stage: decode, from: tracks}
  mono:    {stage: resample, from: audio, params: {sample_rate: 16000}}
  crops:   {stage: crop, from: mono, params: {duration: 2s, policy: grid}}
  mel:     {stage: features, from: crops, params: {views: {mel: {}}}}
  tokens:  {stage: tokenize, from: mel, params: {quantizer: {random_projection: {codebooks: 2, codebook_size: 64}}, patch_rate: 15.625}, cache: cache}
"#;

const MODEL: &str = r#"  model:
    stage: pretrain
    from: {input: mel, targets: tokens}
    params:
      model: {layers: 1, dim: 16, heads: 2, dropout: 0.1}
      steps: STEPS
      minibatch: 4
      shuffle_buffer: 8
      log_every: 1
      # Biases before batch normalisation have no effect: their gradient is rounding, which differs between executors.
      optimizer: {lr: 1.0e-3, warmup: 2, groups: [{names: "*conv_block.module.2.bias", lr_factor: 0}]}
      checkpoint: {every: 4, keep: 10}
"#;

/// Puts other bytes into a file, of the same size and with the same time: to a listing, nothing has changed.
pub fn swap(path: &Path, bytes: &[u8]) {
    let written = fs::metadata(path).unwrap().modified().unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), bytes.len() as u64);
    fs::write(path, bytes).unwrap();
    fs::File::options().append(true).open(path).and_then(|file| file.set_modified(written)).unwrap();
}
