//! A picture of a run as lines: for `top`, and for the watchdog.

use omar_schemas::units::Bytes;

use super::load::{NodeLoad, Picture};
use super::record::{Record, Share, State};
use crate::progress::{clock, hours};

/// Cells of a bar.
const BAR: usize = 8;

/// Nodes that have had something in hand for longer than this say what.
const LONG_S: f64 = 2.0;

/// How much room there is, and what may be used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Columns; longer lines are cut.
    pub(crate) width: usize,
    pub(crate) colour: bool,
}

/// A run: its state, its processes where there are several, its nodes, the bottleneck.
pub(crate) fn lines(picture: &Picture, look: Look) -> Vec<String> {
    let mut lines = vec![bold(&cut(&headline(picture), look.width), look.colour)];
    lines.extend(wrapped(&figures(picture), look.width));
    if picture.processes.len() > 1 {
        lines.push(String::new());
        lines.extend(processes(&picture.processes).iter().map(|line| cut(line, look.width)));
    }
    lines.push(String::new());
    lines.extend(nodes(picture, look));
    lines.push(String::new());
    let past = !picture.state().goes_on();
    if let Some(bottleneck) = &picture.bottleneck {
        lines.extend(wrapped(&words(&bottleneck.sentence(past)), look.width));
    } else if past {
        lines.push("nothing was computed: all that was asked for was there already".to_owned());
    }
    for process in &picture.processes {
        if let Some(error) = &process.error {
            let name =
                if picture.processes.len() > 1 { format!("process {}: ", process.process) } else { String::new() };
            lines.extend(wrapped(&words(&format!("{name}{error}")), look.width));
        }
    }
    lines
}

/// `quickstart: running 1:02, about 0:30 left`
fn headline(picture: &Picture) -> String {
    let Some(first) = picture.processes.first() else { return String::new() };
    let state = picture.state();
    let time = clock(picture.elapsed_s());
    let mut text = match state {
        State::Running | State::Stopping => format!("{}: {} for {time}", first.graph, state.word()),
        State::Lost => format!("{}: lost after {time}", first.graph),
        _ => format!("{}: {} after {time}", first.graph, state.word()),
    };
    let left = picture
        .processes
        .iter()
        .filter_map(|process| process.left_s)
        .fold(None, |most: Option<f64>, left| Some(most.map_or(left, |most| most.max(left))));
    if let Some(left) = left.filter(|_| state.goes_on()) {
        text += &format!(", about {} left", clock(left));
    }
    let still = picture.processes.iter().map(|process| process.still_s).fold(f64::INFINITY, f64::min);
    if state.goes_on() && still.is_finite() && still > LONG_S + 1.0 {
        text += &format!(", nothing has moved for {}", clock(still));
    }
    text
}

/// What the run has done, in pieces that stay together.
fn figures(picture: &Picture) -> Vec<String> {
    let of = |share: Share| format!("{}/{}", share.done, share.total);
    let mut pieces = vec![
        format!("shards {} ({:.0} %)", of(picture.shards()), picture.shards().percent()),
        format!("tracks {}", of(picture.tracks())),
    ];
    let rejected = picture.sum(|process| process.rejected as f64);
    if rejected > 0.0 {
        pieces.push(format!("rejected {rejected:.0}"));
    }
    let pass = picture.processes.iter().map(|process| process.pass).max().unwrap_or(0);
    if pass > 1 {
        pieces.push(format!("pass {pass}"));
    }
    let audio = picture.sum(|process| process.audio_s);
    if audio > 0.0 {
        let whole = audio / picture.elapsed_s().max(1e-3);
        let now = picture.sum(|process| process.realtime);
        let speed = if picture.state().goes_on() { now } else { whole };
        pieces.push(format!("audio {}, {speed:.0} x realtime", hours(audio)));
    }
    if picture.state().goes_on() {
        let memory = picture.memory();
        let resident = memory.resident.map(|bytes| format!(" (process {})", Bytes(bytes))).unwrap_or_default();
        pieces.push(format!("memory {} of {}{resident}", Bytes(memory.held), Bytes(memory.limit)));
    }
    pieces
}

fn processes(processes: &[Record]) -> Vec<String> {
    let mut rows = vec![
        ["process", "machine", "pid", "state", "shards", "audio", "realtime", "memory", "in all"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for process in processes {
        rows.push(vec![
            process.process.to_string(),
            process.host.clone(),
            process.pid.to_string(),
            process.state.word().to_owned(),
            format!("{}/{}", process.shards.done, process.shards.total),
            hours(process.audio_s),
            format!("{:.0} x", process.realtime),
            Bytes(process.memory.held).to_string(),
            process.memory.resident.map_or("-".to_owned(), |bytes| Bytes(bytes).to_string()),
        ]);
    }
    columns(&rows, &[0, 1, 3])
}

/// The table of nodes.
pub(crate) fn nodes(picture: &Picture, look: Look) -> Vec<String> {
    let goes_on = picture.state().goes_on();
    let header = [
        "node",
        "stage",
        "busy",
        "",
        "waits for",
        "queue",
        "now",
        "rows",
        "rows/s",
        "memory/s",
        "rejected",
        "shards",
        "",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let shards = picture.shards().total;
    rows.extend(picture.nodes.iter().map(|node| cells(node, shards, goes_on)));
    let lines = fitting(&rows, kept(&rows, goes_on), look.width);
    let bottleneck = picture.bottleneck.as_ref().map(|bottleneck| bottleneck.node.as_str());
    let lines = lines.into_iter().enumerate().map(|(row, line)| {
        let line = cut(&line, look.width);
        match row.checked_sub(1).map(|node| picture.nodes[node].record.node.as_str()) {
            None => dim(&line, look.colour),
            Some(node) if Some(node) == bottleneck => mark(&line, look.colour),
            Some(_) => line,
        }
    });
    let mut lines: Vec<String> = lines.collect();
    // Where colours cannot say it.
    if let Some(at) = bottleneck.and_then(|name| picture.nodes.iter().position(|node| node.record.node == name))
        && !look.colour
    {
        lines[at + 1] = cut(&format!("{} ◀", lines[at + 1]), look.width);
    }
    lines
}

/// The columns that say anything.
fn kept(rows: &[Vec<String>], goes_on: bool) -> Vec<usize> {
    let says = |column: usize| rows[1..].iter().any(|row| !matches!(row[column].as_str(), "" | "-"));
    let momentary = |column: usize| matches!(column, 5 | 6);
    (0..rows[0].len()).filter(|&column| says(column) && (goes_on || !momentary(column))).collect()
}

/// As many of the columns as there is room for, without those first that are missed least.
fn fitting(rows: &[Vec<String>], mut keep: Vec<usize>, width: usize) -> Vec<String> {
    let mut dispensable = [9, 5, 1, 8, 11, 10, 6].into_iter();
    loop {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| keep.iter().map(|&column| row[column].clone()).collect()).collect();
        let left: Vec<usize> = (0..keep.len()).filter(|&at| [0, 1, 2, 4, 12].contains(&keep[at])).collect();
        let lines = columns(&rows, &left);
        if lines.iter().all(|line| line.chars().count() <= width) {
            return lines;
        }
        match dispensable.next() {
            Some(column) => keep.retain(|&kept| kept != column),
            None => return lines,
        }
    }
}

fn cells(node: &NodeLoad, shards: u64, goes_on: bool) -> Vec<String> {
    let record = &node.record;
    let counts = &record.counts;
    let dash = |text: String, shown: bool| if shown { text } else { "-".to_owned() };
    let waits = node.waits().map_or("-".to_owned(), |(wait, share)| format!("{wait} {:.0} %", 100.0 * share));
    let held = counts.shards_cached + counts.shards_committed;
    vec![
        record.node.clone(),
        record.stage.clone(),
        bar(node.busy),
        format!("{:.0} %", 100.0 * node.busy),
        waits,
        dash(record.queued.to_string(), record.queued > 0),
        dash(record.in_flight.to_string(), record.in_flight > 0),
        (counts.rows_out + counts.rows_cached).to_string(),
        dash(rate(node.rows_per_s), node.rows_per_s > 0.0),
        dash(Bytes(node.bytes_per_s as u64).to_string(), node.bytes_per_s >= 1.0),
        dash(counts.rejected.to_string(), counts.rejected > 0),
        dash(format!("{held}/{shards}"), record.cache),
        if goes_on { doing(node) } else { String::new() },
    ]
}

/// What a node is in the middle of.
fn doing(node: &NodeLoad) -> String {
    let steps = node.record.steps.map(|steps| format!("step {}/{}", steps.done, steps.total));
    let since = node.record.busy_since_s.filter(|&since| since > LONG_S).map(|since| {
        let what = node.record.in_hand.as_ref().map(|what| format!(" on {what}")).unwrap_or_default();
        format!("busy since {}{what}", clock(since))
    });
    let writing = (node.writing >= 0.005).then(|| format!("writing {:.0} %", 100.0 * node.writing));
    [steps, since, writing].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `1234`, `12.3`, `0.12`
pub(crate) fn rate(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// `███▌    `
fn bar(share: f64) -> String {
    const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (share.clamp(0.0, 1.0) * (8 * BAR) as f64).round() as usize;
    let full = eighths / 8;
    let mut text = "█".repeat(full);
    if full < BAR {
        text.push(PARTS[eighths % 8]);
        text.push_str(&" ".repeat(BAR - full - 1));
    }
    text
}

/// Columns of equal width, those in `left` with their text to the left. Lines have no blanks at their end.
pub(crate) fn columns(rows: &[Vec<String>], left: &[usize]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &[String], column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> =
        (0..count).map(|column| rows.iter().map(|row| cell(row, column)).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if left.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Words of a sentence.
fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Pieces in lines of at most `width`, words with a blank between them, longer pieces with two.
fn wrapped(pieces: &[String], width: usize) -> Vec<String> {
    let gap = if pieces.iter().any(|piece| piece.contains(' ')) { "  " } else { " " };
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.chars().count() + gap.len() + piece.chars().count() <= width => {
                *line += gap;
                *line += piece;
            }
            _ => lines.push(piece.clone()),
        }
    }
    lines.iter().map(|line| cut(line, width)).collect()
}

/// At most `width` characters.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

fn bold(text: &str, colour: bool) -> String {
    if colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

fn dim(text: &str, colour: bool) -> String {
    if colour { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
}

fn mark(text: &str, colour: bool) -> String {
    if colour { format!("\x1b[33m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::load::Span;
    use super::super::load::tests::record;
    use super::*;

    fn picture() -> Picture {
        let mut now = record(0, 60.0, [0.0, 0.5, 0.9]);
        now.graph = "test".to_owned();
        now.left_s = Some(61.0);
        now.nodes[1].in_flight = 2;
        now.nodes[2].steps = Some(Share { done: 5, total: 90 });
        Picture::of(vec![Span { before: None, now }])
    }

    #[test]
    fn a_run_is_shown_with_its_bottleneck() {
        let found = lines(&picture(), Look { width: 110, colour: false });
        let expected = [
            "test: running for 1:00, about 1:01 left",
            "shards 3/8 (38 %)  tracks 0/0  memory 0B of 0B",
            "",
            "node    stage     busy            waits for        now  rows  rows/s",
            "tracks  files                0 %  downstream 75 %    -   600    10.0",
            "audio   decode    ██        25 %  -                  2   600    10.0",
            "model   pretrain  ███████▎  90 %  input 10 %         -   600    10.0  step 5/90 ◀",
            "",
            "bottleneck: model (pretrain), at work 90 % of the time; the pool waits for downstream 75 %",
        ];
        assert_eq!(found, expected, "\n{}", found.join("\n"));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_colour_means_none() {
        for width in [1, 10, 40, 80] {
            for line in lines(&picture(), Look { width, colour: false }) {
                assert!(line.chars().count() <= width && !line.contains('\x1b'), "{width}: {line}");
            }
        }
        let narrow = lines(&picture(), Look { width: 66, colour: false }).join("\n");
        assert!(
            narrow.contains("step 5/90") && !narrow.contains("pretrain  "),
            "a step is worth more than a stage:\n{narrow}"
        );
        let coloured = lines(&picture(), Look { width: 80, colour: true });
        assert!(coloured.iter().any(|line| line.starts_with("\x1b[33mmodel")), "{coloured:#?}");
    }

    #[test]
    fn bars_are_as_long_as_they_should() {
        let bars = [0.0, 0.01, 0.5, 0.999, 1.0, 7.0].map(bar);
        assert_eq!(bars, ["        ", "▏       ", "████    ", "████████", "████████", "████████"]);
    }

    #[test]
    fn several_processes_are_listed_and_errors_shown() {
        let spans = (0..2).map(|process| {
            let mut now = record(process, 10.0, [0.0, 0.5, 0.9]);
            if process == 1 {
                now.state = State::Failed;
                now.error = Some("the disk is full".to_owned());
            }
            Span { before: None, now }
        });
        let found = lines(&Picture::of(spans.collect()), Look { width: 200, colour: false }).join("\n");
        assert!(
            found.contains("1                   0  failed") && found.ends_with("process 1: the disk is full"),
            "{found}"
        );
        assert!(found.contains(": failed after 0:10"), "{found}");
    }
}
