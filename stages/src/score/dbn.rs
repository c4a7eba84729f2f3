//! Beats and downbeats from activations: the hidden Markov model over positions in the beat or bar (Krebs, Böck and
//! Widmer, ISMIR 2015; Böck, Krebs and Widmer, ISMIR 2016).
//!
//! A state is a position within a beat of a given length in frames. It moves on by one frame; at the end of a beat the
//! length may change, the less likely the larger the change. The most likely path is found by Viterbi's algorithm.

/// Slowest and fastest tempo, in beats per minute.
const TEMPI: (f64, f64) = (55.0, 215.0);
/// How much changes of tempo are punished.
const TRANSITION_LAMBDA: f64 = 100.0;
/// Of a beat, the first share of 1 / this are states that see a beat.
const OBSERVATION_LAMBDA: usize = 16;
/// Lengths of beats that bars are made of, at most: where frames allow more, they are spaced evenly in logarithm.
const BAR_LENGTHS: usize = 60;
/// Bars are looked for from the first to the last frame whose activation reaches this, unless told otherwise.
const BAR_THRESHOLD: f64 = 0.05;
/// Transitions less likely than this do not happen.
const LEAST: f64 = f64::EPSILON;

/// Finds beats.
#[derive(Debug, Clone)]
pub struct BeatDecoder {
    rate: f64,
    space: Space,
    /// Whether beats move to the largest activation near them.
    pub correct: bool,
}

/// Finds beats and downbeats.
#[derive(Debug, Clone)]
pub struct BarDecoder {
    rate: f64,
    /// A model for each number of beats in a bar that is considered.
    bars: Vec<Space>,
    /// Frames before the first and after the last activation that reaches this are not looked at.
    pub threshold: f64,
}

/// The states: for every length of a beat, and for bars for every beat, the frames of it.
#[derive(Debug, Clone)]
struct Space {
    /// Lengths of beats in frames, ascending.
    lengths: Vec<usize>,
    /// Beats in the cycle: 1, or those of a bar.
    beats: usize,
    /// First state of each beat and length, `(beats, lengths)`.
    first: Vec<usize>,
    states: usize,
    /// Logarithm of the probability to go from one length to another, `(from, to)`; `-inf`: never.
    change: Vec<f64>,
}

impl Space {
    fn new(rate: f64, beats: usize) -> Self {
        let lengths = lengths(rate, if beats > 1 { BAR_LENGTHS } else { usize::MAX });
        let total: usize = lengths.iter().sum();
        let mut first = Vec::new();
        for beat in 0..beats {
            let mut at = beat * total;
            for length in &lengths {
                first.push(at);
                at += length;
            }
        }
        let mut change = Vec::with_capacity(lengths.len().pow(2));
        for from in &lengths {
            let weight = |to: &usize| (-TRANSITION_LAMBDA * (*to as f64 / *from as f64 - 1.0).abs()).exp();
            let weights: Vec<f64> = lengths.iter().map(weight).map(|w| if w <= LEAST { 0.0 } else { w }).collect();
            let sum: f64 = weights.iter().sum();
            change.extend(weights.iter().map(|weight| (weight / sum).ln()));
        }
        Self { first, states: beats * total, change, lengths, beats }
    }

    fn begin(&self, beat: usize, length: usize) -> usize {
        self.first[beat * self.lengths.len() + length]
    }

    /// The most likely path and its log-probability; `observe(frame, kind)` is the log-likelihood of a frame for states
    /// within a beat (0), at a beat (1), at the first beat of a bar (2).
    fn viterbi(&self, frames: usize, observe: impl Fn(usize, usize) -> f64) -> (Vec<u32>, f64) {
        let kinds = self.kinds();
        let mut now = vec![-(self.states as f64).ln(); self.states];
        let mut next = vec![0.0; self.states];
        let heads = self.beats * self.lengths.len();
        // Only at the first frame of a beat is there a choice: which length the last beat had.
        let mut choices = vec![0u16; frames * heads];
        for frame in 0..frames {
            let seen = [observe(frame, 0), observe(frame, 1), observe(frame, 2)];
            for state in 1..self.states {
                next[state] = now[state - 1] + seen[kinds[state] as usize];
            }
            for beat in 0..self.beats {
                let previous = (beat + self.beats - 1) % self.beats;
                for to in 0..self.lengths.len() {
                    let mut best = (f64::NEG_INFINITY, 0);
                    for (from, length) in self.lengths.iter().enumerate() {
                        let last = self.begin(previous, from) + length - 1;
                        let value = now[last] + self.change[from * self.lengths.len() + to];
                        if value > best.0 {
                            best = (value, from);
                        }
                    }
                    let head = self.begin(beat, to);
                    next[head] = best.0 + seen[kinds[head] as usize];
                    choices[frame * heads + beat * self.lengths.len() + to] = best.1 as u16;
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        self.back(&now, &choices, frames)
    }

    fn back(&self, last: &[f64], choices: &[u16], frames: usize) -> (Vec<u32>, f64) {
        let heads = self.beats * self.lengths.len();
        let best = (1..last.len()).fold(0, |best, state| if last[state] > last[best] { state } else { best });
        if frames == 0 || last[best] == f64::NEG_INFINITY {
            return (Vec::new(), f64::NEG_INFINITY);
        }
        let mut path = vec![0u32; frames];
        let mut state = best;
        for frame in (0..frames).rev() {
            path[frame] = state as u32;
            let head = self.first.partition_point(|first| *first <= state) - 1;
            state = if self.first[head] == state {
                let (beat, from) = (head / self.lengths.len(), choices[frame * heads + head] as usize);
                self.begin((beat + self.beats - 1) % self.beats, from) + self.lengths[from] - 1
            } else {
                state - 1
            };
        }
        (path, last[best])
    }

    /// What each state sees: nothing, a beat, the first beat of a bar.
    fn kinds(&self) -> Vec<u8> {
        let mut kinds = vec![0; self.states];
        for beat in 0..self.beats {
            for (length, frames) in self.lengths.iter().enumerate() {
                let at = self.begin(beat, length);
                let seen = (0..*frames).take_while(|frame| frame * OBSERVATION_LAMBDA < *frames).count();
                kinds[at..at + seen].fill(if self.beats > 1 && beat == 0 { 2 } else { 1 });
            }
        }
        kinds
    }

    /// Position within the beat, 0 to below 1.
    fn position(&self, state: u32) -> f64 {
        let head = self.first.partition_point(|first| *first <= state as usize) - 1;
        (state as usize - self.first[head]) as f64 / self.lengths[head % self.lengths.len()] as f64
    }

    /// Place in the cycle of beats, from 0.
    fn beat_of(&self, state: u32) -> usize {
        state as usize * self.beats / self.states
    }
}

/// Lengths of beats in frames: all, or where there are more than `most`, that many at least, evenly spaced in logarithm.
fn lengths(rate: f64, most: usize) -> Vec<usize> {
    let [shortest, longest] = [TEMPI.1, TEMPI.0].map(|tempo| 60.0 * rate / tempo);
    let whole = |length: f64| length.round_ties_even().max(1.0) as usize;
    let all: Vec<usize> = (whole(shortest)..=whole(longest)).collect();
    if all.len() <= most {
        return all;
    }
    let (from, to) = (shortest.log2(), longest.log2());
    let spaced = |count: usize| {
        let step = (to - from) / (count - 1) as f64;
        let at = |i: usize| if i + 1 == count { to } else { from + i as f64 * step };
        let mut lengths: Vec<usize> = (0..count).map(|i| whole(at(i).exp2())).collect();
        lengths.dedup();
        lengths
    };
    // Rounding makes neighbours equal: more are tried until enough are left.
    (most..).map(spaced).find(|lengths| lengths.len() >= most).unwrap_or(all)
}

/// `ln`, where nothing is impossible but zero.
fn log(value: f64) -> f64 {
    value.max(0.0).ln()
}

/// Runs of frames whose states see a beat, one per beat.
fn runs(path: &[u32], kinds: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (frame, state) in path.iter().enumerate().filter(|(_, state)| kinds[**state as usize] > 0) {
        match runs.last_mut() {
            Some(run) if run.1 == frame && kinds[path[frame - 1] as usize] == kinds[*state as usize] => {
                run.1 = frame + 1;
            }
            _ => runs.push((frame, frame + 1)),
        }
    }
    runs
}

/// The first frame with the largest activation.
fn peak(activation: &[f64], (from, to): (usize, usize)) -> usize {
    (from + 1..to).fold(from, |best, frame| if activation[frame] > activation[best] { frame } else { best })
}

impl BeatDecoder {
    /// For activations of so many frames a second.
    pub fn new(rate: f64) -> Self {
        Self { rate, space: Space::new(rate, 1), correct: true }
    }

    /// Times of beats in seconds; none where the activations leave no path.
    ///
    /// # Shapes
    /// `activations`: probability of a beat, 0..1, by frame.
    pub fn decode(&self, activations: &[f64]) -> Vec<f64> {
        self.path(activations).1
    }

    /// The log-probability of the path, and the beats.
    pub fn path(&self, activations: &[f64]) -> (f64, Vec<f64>) {
        if !activations.iter().any(|activation| *activation > 0.0) {
            return (f64::NEG_INFINITY, Vec::new());
        }
        let rest = (OBSERVATION_LAMBDA - 1) as f64;
        let observe = |frame: usize, kind: usize| match kind {
            0 => log((1.0 - activations[frame]) / rest),
            _ => log(activations[frame]),
        };
        let (path, likelihood) = self.space.viterbi(activations.len(), observe);
        let time = |frame: usize| frame as f64 / self.rate;
        if self.correct {
            let beats = runs(&path, &self.space.kinds()).into_iter().map(|run| time(peak(activations, run)));
            return (likelihood, beats.collect());
        }
        // Where a beat begins, and a frame at either end that is in one: the position is less than before and after, the
        // ends being neighbours.
        let (kinds, frames) = (self.space.kinds(), path.len());
        let positions: Vec<f64> = path.iter().map(|state| self.space.position(*state)).collect();
        let starts = |frame: &usize| {
            let around = [positions[(frame + frames - 1) % frames], positions[(frame + 1) % frames]];
            kinds[path[*frame] as usize] > 0 && around.iter().all(|other| positions[*frame] < *other)
        };
        (likelihood, (0..frames).filter(starts).map(time).collect())
    }
}

impl BarDecoder {
    /// For activations of so many frames a second, and bars of three or four beats.
    pub fn new(rate: f64) -> Self {
        Self::with_bars(rate, &[3, 4])
    }

    /// For bars of so many beats; the most likely number is chosen for a whole recording.
    pub fn with_bars(rate: f64, bars: &[usize]) -> Self {
        let bars = bars.iter().filter(|beats| **beats > 1).map(|beats| Space::new(rate, *beats));
        Self { rate, bars: bars.collect(), threshold: BAR_THRESHOLD }
    }

    /// Times of beats in seconds with their places in the bar, from 1, of activations that know of each other: a downbeat
    /// is a beat too, as where two classifiers look for them.
    ///
    /// # Shapes
    /// `beats` and `downbeats`: probabilities by frame, equally many.
    pub fn decode(&self, beats: &[f64], downbeats: &[f64]) -> Vec<(f64, u32)> {
        if !beats.iter().chain(downbeats).any(|activation| *activation > 0.0) {
            return Vec::new();
        }
        // Nothing is impossible: what is left for each of the three kinds of frames is above 0.
        const LEAST: f64 = 1e-6;
        let (others, downs): (Vec<f64>, Vec<f64>) = beats
            .iter()
            .zip(downbeats)
            .map(|(beat, down)| {
                let down = down.clamp(LEAST, 1.0 - 3.0 * LEAST);
                (beat.clamp(down + LEAST, 1.0 - LEAST) - down, down)
            })
            .unzip();
        self.decode_exclusive(&others, &downs)
    }

    /// The same of probabilities that exclude each other: of a beat that is not the first of its bar, and of one that is.
    ///
    /// # Shapes
    /// `others` and `downbeats`: probabilities by frame that sum to at most 1, equally many.
    pub fn decode_exclusive(&self, others: &[f64], downbeats: &[f64]) -> Vec<(f64, u32)> {
        let both: Vec<f64> = others.iter().zip(downbeats).map(|(other, down)| other.max(*down)).collect();
        let heard = |activation: &f64| *activation >= self.threshold;
        let (Some(first), Some(last)) = (both.iter().position(heard), both.iter().rposition(heard)) else {
            return Vec::new();
        };
        if !both.iter().any(|activation| *activation > 0.0) {
            return Vec::new();
        }
        let rest = (OBSERVATION_LAMBDA - 1) as f64;
        let observe = |frame: usize, kind: usize| {
            let (other, down) = (others[first + frame], downbeats[first + frame]);
            match kind {
                0 => log((1.0 - (other + down)) / rest),
                1 => log(other),
                _ => log(down),
            }
        };
        let paths = self.bars.iter().map(|space| (space, space.viterbi(last + 1 - first, observe)));
        let best = paths.reduce(|best, other| if other.1.1 > best.1.1 { other } else { best });
        let Some((space, (path, _))) = best else { return Vec::new() };
        let kinds = space.kinds();
        let beat = |run: (usize, usize)| {
            let frame = peak(&both, (first + run.0, first + run.1));
            (frame as f64 / self.rate, space.beat_of(path[run.0]) as u32 + 1)
        };
        runs(&path, &kinds).into_iter().map(beat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_those_of_the_publication() {
        for (rate, first, last, states) in
            [(15.625, 4, 17, 147), (18.75, 5, 20, 200), (25.0, 7, 27, 357), (100.0, 28, 109, 5617)]
        {
            let space = Space::new(rate, 1);
            assert_eq!((space.lengths[0], *space.lengths.last().unwrap(), space.states), (first, last, states));
        }
        // Of the 82 lengths at 100 Hz bars have 60 (or a few more, where rounding leaves no fewer).
        let lengths = Space::new(100.0, 4).lengths;
        assert!((60..=62).contains(&lengths.len()) && lengths.is_sorted_by(|a, b| a < b), "{lengths:?}");
        assert_eq!((lengths[0], lengths[lengths.len() - 1]), (28, 109));
        assert_eq!(Space::new(25.0, 3).lengths.len(), 21);
    }

    #[test]
    fn pulses_are_beats() {
        let mut activations = vec![1e-4; 200];
        [0, 49, 99, 149, 199].into_iter().for_each(|frame| activations[frame] = 1.0);
        assert_eq!(BeatDecoder::new(100.0).decode(&activations), [0.0, 0.49, 0.99, 1.49, 1.99]);
        assert!(BeatDecoder::new(100.0).decode(&[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]).is_empty());
        assert!(BeatDecoder::new(100.0).decode(&[0.0; 50]).is_empty());
        assert!(BeatDecoder::new(100.0).decode(&[]).is_empty());
    }

    #[test]
    fn bars_of_three_are_told_from_bars_of_four() {
        for beats_in_bar in [3, 4] {
            let (mut beats, mut downs) = (vec![0.02; 3000], vec![0.01; 3000]);
            for (index, frame) in (30..3000).step_by(50).enumerate() {
                beats[frame] = 0.9;
                downs[frame] = if index % beats_in_bar == 0 { 0.85 } else { 0.05 };
            }
            let found = BarDecoder::new(100.0).decode(&beats, &downs);
            assert_eq!(found.len(), 60);
            for (index, (time, place)) in found.iter().enumerate() {
                assert!((time - (0.3 + 0.5 * index as f64)).abs() < 1e-9);
                assert_eq!(*place as usize, index % beats_in_bar + 1, "bars of {beats_in_bar}");
            }
        }
    }
}
