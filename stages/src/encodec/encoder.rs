//! The whole encoder, chunk by chunk.
//!
//! The network is causal: what it says about a second of audio needs nothing after it, and of what lies before it only
//! the few rows that the windows of each convolution reach, and the memory of the LSTM. So a crop goes through in chunks
//! of some frames, and within a stage in tiles that stay in the cache, with the same bits as in one piece.

use pulp::Arch;

use super::convolution::{Convolution, Line, Place, pitch};
use super::lstm::{Lstm, Memory};
use super::maths;
use super::network::{Network, Residual, Stage};

/// Frames of one chunk: enough rows for one pass over the large weights of the last stage and the LSTM.
const CHUNK: usize = 96;
/// Values of one row buffer of a tile; a stage has about four of them in use.
const TILE_VALUES: usize = 24_576;
/// Rows that a tile gives to the next stage, at least.
const TILE_ROWS: usize = 96;
/// Crops that are encoded together, at most.
pub(super) const GROUP: usize = 12;

/// The network in memory.
pub(super) type CpuNetwork = Network<Convolution, Lstm>;

impl CpuNetwork {
    /// Number of weights.
    pub(super) fn parameters(&self) -> usize {
        let of_stages = self.stages.iter().map(|stage| {
            let blocks = stage.residuals.iter().flat_map(|block| {
                [Some(&block.inner), Some(&block.outer), block.shortcut.as_ref()].into_iter().flatten()
            });
            blocks.map(Convolution::parameters).sum::<usize>() + stage.down.parameters()
        });
        let of_lstm = self.lstm.iter().map(Lstm::parameters).sum::<usize>();
        self.first.parameters() + of_stages.sum::<usize>() + of_lstm + self.last.parameters()
    }

    /// Samples per frame.
    fn hop(&self) -> usize {
        self.stages.iter().map(|stage| stage.down.shape.stride).product()
    }

    /// Frames of a chunk: the first one has to hold what is reflected before it.
    fn chunk(&self) -> usize {
        let mut hop = self.hop();
        let mut frames = CHUNK.max(self.last.shape.context() + 1);
        frames = frames.max(self.first.shape.context() / hop + 1);
        for stage in &self.stages {
            frames = frames.max(stage.context() / hop + 1);
            hop /= stage.down.shape.stride;
        }
        frames
    }
}

impl Stage<Convolution> {
    /// The farthest that a convolution of this stage reaches back.
    fn context(&self) -> usize {
        let blocks = self.residuals.iter().map(|block| block.inner.shape.context());
        blocks.chain([self.down.shape.context()]).max().unwrap_or(0)
    }

    /// Rows of one tile.
    fn tile(&self) -> usize {
        let stride = self.down.shape.stride;
        let rows = TILE_VALUES / self.down.shape.in_channels;
        rows.max(TILE_ROWS * stride).max(self.context() + 1).next_multiple_of(stride)
    }
}

/// Buffers of one stage, for one tile; shared by all crops.
struct StageBuffers {
    /// Input of the first convolution of each block, after ELU.
    inner: Vec<Line>,
    /// Between the convolutions of a block.
    hidden: Vec<f32>,
    /// Output of one block and of the one before it, where there are several.
    rows: [Vec<f32>; 2],
    /// Input of the last convolution.
    down: Line,
}

/// What one crop keeps between tiles: the context of every convolution.
struct Histories {
    first: Vec<f32>,
    /// Of the blocks, then of the last convolution of a stage.
    stages: Vec<(Vec<Vec<f32>>, Vec<f32>)>,
    last: Vec<f32>,
}

impl Stage<Convolution> {
    fn buffers(&self) -> StageBuffers {
        let rows = self.tile();
        let width = pitch(self.down.shape.in_channels);
        let hidden = self.residuals.iter().map(|block| pitch(block.inner.shape.out_channels)).max().unwrap_or(0);
        let between = if self.residuals.len() > 1 { rows * width } else { 0 };
        StageBuffers {
            inner: self.residuals.iter().map(|block| block.inner.line(rows)).collect(),
            hidden: vec![0.0; rows * hidden],
            rows: [vec![0.0; between], vec![0.0; between]],
            down: self.down.line(rows),
        }
    }

    /// One tile: `rows` rows of `input`. Gives the number of rows of `out`.
    fn forward(
        &self,
        arch: Arch,
        input: &[f32],
        at: (usize, Place),
        buffers: &mut StageBuffers,
        (blocks, down): &mut (Vec<Vec<f32>>, Vec<f32>),
        out: (&mut [f32], usize),
    ) -> usize {
        let StageBuffers { inner, hidden, rows: [past, next], down: line } = buffers;
        let count = self.residuals.len();
        for (index, block) in self.residuals.iter().enumerate() {
            let x = if index == 0 { input } else { &past[..] };
            let last = index + 1 == count;
            let (y, line) = (if last { line.rows() } else { &mut next[..] }, &mut inner[index]);
            block.forward(arch, x, at, (line, &mut blocks[index], hidden), last, y);
            std::mem::swap(past, next);
        }
        self.down.forward(arch, line, at, down, false, out)
    }
}

impl Residual<Convolution> {
    /// One tile of `rows` rows from `input` to `out`, and an ELU if asked for.
    fn forward(
        &self,
        arch: Arch,
        input: &[f32],
        (rows, place): (usize, Place),
        (line, history, hidden): (&mut Line, &mut [f32], &mut [f32]),
        elu: bool,
        out: &mut [f32],
    ) {
        let width = pitch(self.inner.shape.in_channels);
        let hidden_width = pitch(self.inner.shape.out_channels);
        maths::elu_into(arch, &input[..rows * width], &mut line.rows()[..rows * width]);
        self.inner.forward(arch, line, (rows, place), history, true, (hidden, hidden_width));
        match &self.shortcut {
            Some(shortcut) => shortcut.pointwise(input, rows, false, false, (&mut *out, width)).run(arch),
            None => out[..rows * width].copy_from_slice(&input[..rows * width]),
        }
        self.outer.pointwise(hidden, rows, true, elu, (out, width)).run(arch);
    }
}

/// The encoding of a few crops of one length.
pub(super) struct Encoding<'a> {
    network: &'a CpuNetwork,
    arch: Arch,
    batch: usize,
    frames: usize,
    /// Input and output of the first convolution.
    audio: Line,
    sound: Vec<f32>,
    stages: Vec<StageBuffers>,
    /// Output of every stage but the last, for one chunk.
    between: Vec<Vec<f32>>,
    crops: Vec<Histories>,
    /// `(frames, batch)` rows: input of the LSTM, and output of two of its layers.
    codes: Vec<f32>,
    layers: [Vec<f32>; 2],
    gates: Vec<f32>,
    memories: Vec<Memory>,
    last: Line,
    out: Vec<f32>,
}

impl<'a> Encoding<'a> {
    /// Room for `batch` crops of `samples` samples.
    pub(super) fn new(network: &'a CpuNetwork, batch: usize, samples: usize) -> Self {
        let frames = network.chunk().min(samples.div_ceil(network.hop()));
        let mut rows = frames * network.hop();
        let first_tile = network.stages[0].tile();
        let mut between = Vec::new();
        for stage in &network.stages {
            rows /= stage.down.shape.stride;
            between.push(vec![0.0; rows * pitch(stage.down.shape.out_channels)]);
        }
        between.pop();
        let history = |_| Histories {
            first: network.first.history(),
            stages: network
                .stages
                .iter()
                .map(|stage| {
                    (stage.residuals.iter().map(|block| block.inner.history()).collect(), stage.down.history())
                })
                .collect(),
            last: network.last.history(),
        };
        let codes = vec![0.0; frames * batch * pitch(network.last.shape.in_channels)];
        let gates = network.lstm.iter().map(|layer| layer.gates(frames * batch)).max().unwrap_or(0);
        Self {
            network,
            arch: Arch::new(),
            batch,
            frames,
            audio: network.first.line(first_tile),
            sound: vec![0.0; first_tile * pitch(network.first.shape.out_channels)],
            stages: network.stages.iter().map(Stage::buffers).collect(),
            between,
            crops: (0..batch).map(history).collect(),
            layers: [codes.clone(), codes.clone()],
            codes,
            gates: vec![0.0; gates],
            memories: network.lstm.iter().map(|layer| layer.memory(batch)).collect(),
            last: network.last.line(frames),
            out: vec![0.0; frames * pitch(network.last.shape.out_channels)],
        }
    }

    /// Encodes `crops`, as many and as long as there is room for; `out` is `(batch, frames, bins)`.
    pub(super) fn run(mut self, crops: &[&[f32]], out: &mut [f32]) {
        let bins = self.network.last.shape.out_channels;
        let step = self.frames * self.network.hop();
        let samples = crops[0].len();
        let total = out.len() / self.batch;
        for start in (0..samples).step_by(step) {
            let end = samples.min(start + step);
            let place = Place { first: start == 0, last: end == samples };
            let mut frames = 0;
            for (index, crop) in crops.iter().enumerate() {
                frames = self.convolve(index, &crop[start..end], place);
            }
            self.recur(frames);
            for (index, out) in out.chunks_exact_mut(total).enumerate() {
                let first = start / self.network.hop() * bins;
                self.project(index, (frames, place), &mut out[first..first + frames * bins]);
            }
        }
    }

    /// The convolutions before the LSTM for a chunk of one crop, into `codes`. Gives the number of frames.
    fn convolve(&mut self, crop: usize, samples: &[f32], place: Place) -> usize {
        let histories = &mut self.crops[crop];
        let mut rows = samples.len();
        let count = self.network.stages.len();
        for (index, stage) in self.network.stages.iter().enumerate() {
            let in_width = pitch(stage.down.shape.in_channels);
            let out_width = pitch(stage.down.shape.out_channels);
            let (before, after) = self.between.split_at_mut(index);
            // The last stage writes between the rows of other crops.
            let (out, out_step) = if index + 1 == count {
                (&mut self.codes[crop * out_width..], self.batch * out_width)
            } else {
                (&mut after[0][..], out_width)
            };
            let tile = stage.tile();
            let mut written = 0;
            for start in (0..rows).step_by(tile) {
                let end = rows.min(start + tile);
                let at = Place { first: place.first && start == 0, last: place.last && end == rows };
                let at = (end - start, at);
                let input = if index == 0 {
                    self.audio.rows()[..at.0].copy_from_slice(&samples[start..end]);
                    let sound = (&mut self.sound[..], in_width);
                    self.network.first.forward(self.arch, &mut self.audio, at, &mut histories.first, false, sound);
                    &self.sound[..]
                } else {
                    &before[index - 1][start * in_width..]
                };
                let (buffers, history) = (&mut self.stages[index], &mut histories.stages[index]);
                let out = (&mut out[written * out_step..], out_step);
                written += stage.forward(self.arch, input, at, buffers, history, out);
            }
            rows = written;
        }
        rows
    }

    /// The LSTM for a chunk of all crops, its skip connection and ELU, from and into `codes`.
    fn recur(&mut self, frames: usize) {
        let Self { layers: [past, next], codes, gates, memories, .. } = self;
        for (index, (layer, memory)) in self.network.lstm.iter().zip(memories).enumerate() {
            let input = if index == 0 { &codes[..] } else { &past[..] };
            layer.forward(self.arch, input, (frames, self.batch), memory, gates, next);
            std::mem::swap(past, next);
        }
        for (code, output) in codes.iter_mut().zip(&past[..]) {
            *code += output;
        }
    }

    /// ELU and the last convolution for a chunk of one crop.
    fn project(&mut self, crop: usize, at: (usize, Place), out: &mut [f32]) {
        let last = &self.network.last;
        let width = pitch(last.shape.in_channels);
        let codes = self.codes[crop * width..].chunks(self.batch * width);
        for (row, code) in self.last.rows().chunks_exact_mut(width).zip(codes).take(at.0) {
            maths::elu_into(self.arch, &code[..width], row);
        }
        let bins = last.shape.out_channels;
        let step = pitch(bins);
        let history = &mut self.crops[crop].last;
        last.forward(self.arch, &mut self.last, at, history, false, (&mut self.out, step));
        for (out, row) in out.chunks_exact_mut(bins).zip(self.out.chunks_exact(step)) {
            out.copy_from_slice(&row[..bins]);
        }
    }
}
