//! The lines that a terminal shows while a model trains.

use super::plot::plot;
use super::{Row, TrainingLog};
use crate::progress::clock;

/// Streams that are named one by one; more of them are in the report only.
const STREAMS: usize = 8;
/// Width of the curve at most, in characters; its labels take some more.
const WIDTH: usize = 96;
/// What the labels of the curve take.
const MARGIN: usize = 12;

/// How much room there is, and what may be used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Columns of the terminal.
    pub(crate) width: usize,
    /// Rows of the curve; 0 for none.
    pub(crate) plot_rows: usize,
    /// Whether colours are wanted.
    pub(crate) colour: bool,
}

/// The state of a training: speed and time left, loss and accuracy beside what needs no model, streams, the curve.
pub(crate) fn lines(log: &TrainingLog, positions: Option<usize>, look: Look) -> Vec<String> {
    let Some(train) = log.train.last() else { return Vec::new() };
    let mut lines = vec![bold(&cut(&headline(log, train, positions), look.width), look.colour)];
    let mut figures = vec![format!("training   loss {:.3}  accuracy {}", train.loss, percent(train.accuracy))];
    if let Some(valid) = log.valid.last() {
        let unigram = valid.unigram.map(|share| format!("unigram {}, ", percent(share))).unwrap_or_default();
        let baselines = format!("({unigram}chance {})", percent(log.spec.chance));
        let (loss, accuracy) = (valid.loss, percent(valid.accuracy));
        figures.push(format!("held out   loss {loss:.3}  accuracy {accuracy} {baselines}  at step {}", valid.step));
    } else {
        figures.push(format!("held out   not evaluated yet  (chance {})", percent(log.spec.chance)));
    }
    figures.extend(streams(log, look.width.saturating_sub(2)));
    lines.extend(figures.iter().map(|line| cut(&format!("  {line}"), look.width)));
    if look.plot_rows > 1 && look.width > MARGIN + 10 && log.train.rows().nth(1).is_some() {
        let title = "  loss: ⠒⠒ training, • held out, over steps";
        lines.push(cut(title, look.width));
        let of = |row: &Row| (row.step as f64, row.loss);
        let (train, valid): (Vec<_>, Vec<_>) = (log.train.rows().map(of).collect(), log.valid.rows().map(of).collect());
        let width = (look.width - MARGIN).min(WIDTH);
        lines.extend(plot(&train, &valid, width, look.plot_rows).iter().map(|line| paint(line, look)));
    }
    lines
}

/// One line of the same, for where lines are not redrawn.
pub(crate) fn line(log: &TrainingLog, positions: Option<usize>) -> Option<String> {
    let train = log.train.last()?;
    let mut text = headline(log, train, positions);
    text += &format!(", loss {:.3}, accuracy {}", train.loss, percent(train.accuracy));
    if let Some(valid) = log.valid.last() {
        let unigram = valid.unigram.map(|share| format!(", unigram {}", percent(share))).unwrap_or_default();
        text += &format!("; held out: loss {:.3}, accuracy {}{unigram}", valid.loss, percent(valid.accuracy));
    }
    Some(text)
}

/// `step 120/4000 (3.0 %), 2.10 steps/s, 16.8 crops/s, 2621 positions/s, lr 1.0e-3, 30:48 left`
fn headline(log: &TrainingLog, train: &Row, positions: Option<usize>) -> String {
    let share = 100.0 * train.step as f64 / log.spec.steps.max(1) as f64;
    let mut text = format!("step {}/{} ({share:.1} %)", train.step, log.spec.steps);
    if let Some((steps, crops)) = log.speed() {
        text += &format!(", {steps:.2} steps/s, {crops:.1} crops/s");
        text += &positions.map(|n| format!(", {:.0} positions/s", crops * n as f64)).unwrap_or_default();
    }
    text += &format!(", lr {:.1e}", train.lr);
    text += &log.left_s().map(|seconds| format!(", {} left", clock(seconds))).unwrap_or_default();
    text
}

/// The accuracy of every stream, wrapped, with that of its best constant answer.
fn streams(log: &TrainingLog, width: usize) -> Vec<String> {
    let count = log.spec.streams.len();
    let Some(row) = log.valid.last().or(log.train.last()).filter(|_| (2..=STREAMS).contains(&count)) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    let mut line = "streams   ".to_owned();
    for (stream, (name, accuracy)) in log.spec.streams.iter().zip(&row.streams).enumerate() {
        let unigram = row.stream_unigram.get(stream).map(|share| format!(" ({})", percent(f64::from(*share))));
        let words = format!(" {name} {}{}", percent(f64::from(*accuracy)), unigram.unwrap_or_default());
        if line.chars().count() + words.chars().count() > width && line.trim() != "streams" {
            lines.push(std::mem::replace(&mut line, " ".repeat(10)));
        }
        line += &words;
    }
    lines.push(line);
    lines
}

/// `12.3 %`, with more digits where there is little.
pub(crate) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let digits = if percent >= 1.0 || percent == 0.0 { 1 } else { 2 };
    format!("{percent:.digits$} %")
}

/// At most `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

fn bold(text: &str, colour: bool) -> String {
    if colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

/// A line of the curve: the curve in one colour, marks in another.
fn paint(line: &str, look: Look) -> String {
    let line = cut(&format!("  {line}"), look.width);
    match line.find(['┤', '│']).filter(|_| look.colour) {
        Some(at) => {
            let (label, cells) = line.split_at(at + '│'.len_utf8());
            format!("{label}\x1b[36m{}\x1b[0m", cells.replace('•', "\x1b[33m•\x1b[36m"))
        }
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{log, spec};
    use super::*;

    const LOOK: Look = Look { width: 100, plot_rows: 4, colour: false };

    #[test]
    fn a_training_is_shown_with_its_curve() {
        let found = lines(&log(60, 200), Some(150), LOOK);
        let expected = [
            "step 60/200 (30.0 %), 2.00 steps/s, 8.0 crops/s, 1200 positions/s, lr 1.0e-3, 1:10 left",
            "  training   loss 3.000  accuracy 27.3 %",
            "  held out   loss 3.100  accuracy 27.3 % (unigram 11.0 %, chance 0.39 %)  at step 60",
            "  streams    mel/0 30.0 % (12.0 %) mel/1 24.5 % (10.0 %)",
            "  loss: ⠒⠒ training, • held out, over steps",
        ];
        assert_eq!(found[..5], expected, "\n{}", found.join("\n"));
        assert_eq!(found.len(), 10, "\n{}", found.join("\n"));
        assert!(found[5].starts_with("  5.81 ┤") && found[8].starts_with("  3.00 ┤"), "\n{}", found.join("\n"));
        assert_eq!(found.iter().map(|line| line.matches('•').count()).sum::<usize>(), 6 + 1, "\n{}", found.join("\n"));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_colour_means_none() {
        for width in [1, 10, 23, 40, 80, 300] {
            for line in lines(&log(30, 40), Some(150), Look { width, ..LOOK }) {
                assert!(line.chars().count() <= width, "{width}: {line}");
                assert!(!line.contains('\x1b'));
            }
        }
        let coloured = lines(&log(30, 40), None, Look { colour: true, ..LOOK });
        assert!(coloured.iter().filter(|line| line.contains('\x1b')).all(|line| line.ends_with("\x1b[0m")));
    }

    #[test]
    fn a_line_says_it_all_and_nothing_before_the_first_step() {
        let empty = TrainingLog::new(spec(5));
        assert!(lines(&empty, None, LOOK).is_empty() && line(&empty, None).is_none());
        let text = line(&log(20, 40), None).expect("there are steps");
        assert!(text.contains("held out: loss 4.100, accuracy 14.3 %, unigram 11.0 %"), "{text}");
    }
}
