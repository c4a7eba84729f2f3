//! What a probe learns from: whole recordings, or windows of them.
//!
//! `standard`: the windows of a recording follow one another, each is seen once an epoch. `published`: they overlap, and an
//! epoch sees one of every recording, drawn anew each time. Which one is a function of seed, repeat and the number of the
//! draw, so a training can be repeated.

use std::ops::Range;

use super::bench::Bench;
use crate::model::Stream;
use crate::probe::ProbeError;
use crate::probe::fit::Examples;
use crate::probe::task::{Annotated, Protocol, TaskKind, Unit};

/// A last window that is cut off by the end of the recording is one if it has at least this share.
const LAST: f64 = 0.1;

/// Windows of the recordings of `train`, as ranges of frames.
#[derive(Debug)]
pub(super) enum Windows {
    /// Each is an example.
    Fixed(Vec<(usize, Range<usize>)>),
    /// Each recording is one: any of its windows.
    Drawn(Vec<(usize, Vec<Range<usize>>)>),
}

impl Windows {
    /// Of recordings `train`.
    pub(super) fn new(
        recordings: &[Annotated],
        train: &[usize],
        window_s: f64,
        (task, protocol): (TaskKind, Protocol),
    ) -> Self {
        if task.unit() == Unit::Recording {
            return Self::Fixed(train.iter().map(|&index| (index, 0..recordings[index].times.len())).collect());
        }
        if protocol == Protocol::Published {
            let hop_s = (1.0 - task.overlap()) * window_s;
            let of = |&index: &usize| (index, overlapping(&recordings[index], window_s, hop_s));
            return Self::Drawn(train.iter().map(of).collect());
        }
        let of =
            |&index: &usize| consecutive(&recordings[index], window_s).into_iter().map(move |range| (index, range));
        Self::Fixed(train.iter().flat_map(of).collect())
    }

    fn len(&self) -> usize {
        match self {
            Self::Fixed(all) => all.len(),
            Self::Drawn(all) => all.len(),
        }
    }

    /// Recording and frames of an example.
    fn at(&self, index: usize, draw: u64, stream: Stream) -> (usize, Range<usize>) {
        match self {
            Self::Fixed(all) => all[index].clone(),
            Self::Drawn(all) => {
                let (recording, windows) = &all[index];
                (*recording, windows[stream.below(draw, windows.len())].clone())
            }
        }
    }
}

/// Frames in windows of so many seconds, on a grid from 0.
fn consecutive(recording: &Annotated, window_s: f64) -> Vec<Range<usize>> {
    let window = |frame: &usize| (recording.times[*frame] / window_s + 1e-9).floor();
    let all: Vec<usize> = (0..recording.times.len()).collect();
    all.chunk_by(|a, b| window(a) == window(b)).map(|run| run[0]..run[run.len() - 1] + 1).collect()
}

/// Frames in windows every `hop_s` seconds, as the published code cuts recordings: all that fit, and the last one if
/// enough of it is there. At least one; windows in which nothing was heard are left out.
fn overlapping(recording: &Annotated, window_s: f64, hop_s: f64) -> Vec<Range<usize>> {
    let whole = 1.0 + ((recording.end - window_s) / hop_s + 1e-9).floor().max(0.0);
    let rest = recording.end - ((whole - 1.0) * hop_s + window_s);
    let count = whole as usize + usize::from(rest > LAST * window_s);
    let frame = |time: f64| recording.times.partition_point(|start| *start < time - 1e-9);
    let windows = (0..count).map(|window| window as f64 * hop_s).map(|from| frame(from)..frame(from + window_s));
    let heard: Vec<Range<usize>> = windows.filter(|window| !window.is_empty()).collect();
    if heard.is_empty() { std::iter::once(0..recording.times.len()).collect() } else { heard }
}

/// Windows with their vectors and targets.
pub(super) struct TrainingSet<'a> {
    pub(super) bench: &'a Bench<'a>,
    /// The columns that are side by side.
    pub(super) parts: &'a [usize],
    /// Of this repeat.
    pub(super) stream: Stream,
}

impl Examples for TrainingSet<'_> {
    fn len(&self) -> usize {
        self.bench.windows.len()
    }

    fn vary(&self) -> bool {
        matches!(self.bench.windows, Windows::Drawn(_))
    }

    fn append(&self, index: usize, draw: u64, rows: &mut Vec<f32>, targets: &mut Vec<f32>) -> Result<(), ProbeError> {
        let (recording, frames) = self.bench.windows.at(index, draw, self.stream);
        let outputs = self.bench.task.outputs();
        targets.extend_from_slice(&self.bench.targets[recording][frames.start * outputs..frames.end * outputs]);
        self.bench.append(recording, frames, self.parts, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(seconds: f64) -> Annotated {
        let times: Vec<f64> = (0..(seconds * 18.75) as usize).map(|frame| frame as f64 / 18.75).collect();
        let (name, labels) = ("a.wav".to_owned(), Vec::new());
        Annotated { name, training: true, times, end: seconds, rate: 18.75, labels }
    }

    #[test]
    fn windows_overlap_as_published() {
        // 70 s in 30 s every 15 s: 0, 15 and 30 are whole, of the one at 45 there are 25 s.
        let windows = overlapping(&recording(70.0), 30.0, 15.0);
        let starts: Vec<usize> = windows.iter().map(|window| window.start).collect();
        // Frames at 18.75 Hz start at or after 15 s: 281.25 is 282.
        assert_eq!(starts, [0, 282, 563, 844]);
        assert_eq!(windows[3].end, 1312);
        // Two seconds more than whole windows are not another one; of a short recording there is one.
        assert_eq!(overlapping(&recording(62.0), 30.0, 15.0).len(), 3);
        let short = overlapping(&recording(7.0), 30.0, 15.0);
        assert_eq!((short.len(), &short[0]), (1, &(0..131)));
        assert_eq!(overlapping(&recording(60.0), 30.0, 3.0).len(), 11);
    }

    #[test]
    fn a_draw_is_a_function_of_its_number() {
        let recordings = [recording(100.0), recording(20.0)];
        let of = |protocol| Windows::new(&recordings, &[0, 1], 30.0, (TaskKind::Beats, protocol));
        let drawn = of(Protocol::Published);
        let stream = Stream::new(5, "windows");
        let first: Vec<_> = (0..50).map(|draw| drawn.at(0, draw, stream)).collect();
        assert_eq!(first, (0..50).map(|draw| drawn.at(0, draw, stream)).collect::<Vec<_>>());
        let mut starts: Vec<usize> = first.iter().map(|window| window.1.start).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!((drawn.len(), starts.len()), (2, 6), "all six windows are seen: {starts:?}");
        // The other protocol has every frame once, whatever the draw.
        let fixed = of(Protocol::Standard);
        assert_eq!(fixed.len(), 5);
        assert_eq!(fixed.at(3, 0, stream), fixed.at(3, 9, stream));
    }
}
