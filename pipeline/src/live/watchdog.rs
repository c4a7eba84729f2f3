//! Says so when nothing moves.
//!
//! The worst failure is silence: a run that waits for ever, with idle processors and no message. When no counter of any
//! node has changed for a while, the watchdog says who has the work: what every thread has in hand and since when, what
//! is queued, how much memory is held, which shard is not through. It never ends anything. A stage that is at work for
//! minutes in one call, as a training step can be, is no fault, and is told as a note.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use omar_schemas::units::{self, Bytes};
use omar_stages::storage::utc;

use super::load::{Picture, Span};
use super::observe::{Moved, Situation, unix_now};
use super::record::Record;
use super::table::{self, Look};
use crate::exec::traffic::{Held, Owner};
use crate::progress::clock;

/// After each alarm, the next one takes so many times as long.
const PATIENCE: u32 = 2;

/// A process that uses less than this share of a processor is not computing.
const COMPUTES: f64 = 0.1;

/// Hands and shards that are listed.
const LISTED: usize = 6;

/// A time to wait, or for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(pub Option<Duration>);

impl std::str::FromStr for Patience {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let seconds = units::Duration::parse(text).map_err(|error| format!("{error}; or `off`"))?.seconds();
        let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
        time.map(|time| Self(Some(time)))
            .ok_or_else(|| format!("expected a time such as `60s`, or `off`, found `{text}`"))
    }
}

/// Decides when to speak.
#[derive(Debug)]
pub(crate) struct Watchdog {
    interval: Duration,
    next: Duration,
}

/// Nothing has moved for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alarm {
    /// For how long.
    pub(crate) still: Duration,
    /// When it is said again.
    pub(crate) again: Duration,
}

impl Watchdog {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, next: interval }
    }

    /// Whether it is time to say that nothing moves: after the interval, then after twice that, and so on.
    pub(crate) fn look(&mut self, moved: &Moved) -> Option<Alarm> {
        self.after(moved.still())
    }

    fn after(&mut self, still: Duration) -> Option<Alarm> {
        if still < self.interval {
            self.next = self.interval;
        }
        if still < self.next {
            return None;
        }
        while self.next <= still {
            self.next *= PATIENCE;
        }
        Some(Alarm { still, again: self.next })
    }
}

/// What the watchdog says.
pub(crate) fn text(alarm: &Alarm, record: &Record, situation: &Situation) -> String {
    let still = clock(alarm.still.as_secs_f64());
    let at_work: Vec<&Held> = situation.in_hand.iter().filter(|held| held.at_work).collect();
    let computes = situation.processor.is_some_and(|time| time.as_secs_f64() > COMPUTES * alarm.still.as_secs_f64());
    let name = |held: &Held| record.nodes.get(held.node).map_or(String::new(), |node| node.node.clone());
    let long = at_work.first().filter(|held| held.owner == Owner::Corpus || computes);
    let process = if record.processes > 1 { format!(" in process {}", record.process) } else { String::new() };
    let mut lines = vec![match long {
        Some(held) => format!(
            "note: {} is busy since {still} with one call{process}, and nothing else has moved. If its steps take that long, \
             all is well",
            name(held)
        ),
        None => format!("warning: nothing has moved for {still}{process}, and nothing computes"),
    }];
    for held in situation.in_hand.iter().take(LISTED) {
        let (node, since) = (name(held), clock(held.since.as_secs_f64()));
        let what = held.what.as_ref().map(|what| format!(" on {what}")).unwrap_or_default();
        lines.push(match (held.at_work, held.owner) {
            (true, Owner::Writer) => format!("  the writer is busy since {since} for {node}{what}"),
            (true, _) => format!("  {node} is busy since {since}{what}"),
            (false, _) => format!("  {node} waits since {since} to go on{what}"),
        });
    }
    if situation.in_hand.len() > LISTED {
        lines.push(format!("  and {} more", situation.in_hand.len() - LISTED));
    }
    if situation.in_hand.is_empty() {
        lines.push("  nobody has anything in hand".to_owned());
    }
    for shard in situation.open.iter().take(LISTED) {
        let pass = if shard.pass > 0 { format!(" in pass {}", shard.pass + 1) } else { String::new() };
        lines.push(format!(
            "  shard {}{pass}: {} of {} recordings are through",
            shard.name, shard.through, shard.tracks
        ));
    }
    lines.push(format!(
        "  memory: {} of {} held; writers: {} queued",
        Bytes(record.memory.held),
        Bytes(record.memory.limit),
        record.writer_queue
    ));
    let picture = Picture::of(vec![Span { before: None, now: record.clone() }]);
    let look = Look { width: 160, colour: false };
    lines.extend(table::nodes(&picture, look).iter().map(|line| format!("  {line}")));
    lines.push(format!(
        "  said again when it has been {}; --watchdog TIME sets when, --watchdog off ends it",
        clock(alarm.again.as_secs_f64())
    ));
    lines.join("\n")
}

/// Adds to a log, with the time.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn append(log: &Path, text: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", log.display()));
    let mut file = OpenOptions::new().create(true).append(true).open(log).map_err(named)?;
    file.write_all(format!("{}\n{text}\n\n", utc(unix_now() as u64)).as_bytes()).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::super::load::tests::record;
    use super::*;
    use crate::exec::traffic::OpenShard;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn patience_is_a_time_or_off() {
        let millis = |text: &str| text.parse::<Patience>().map(|patience| patience.0.map(|time| time.as_millis()));
        assert_eq!((millis("60s"), millis("150ms"), millis("off")), (Ok(Some(60_000)), Ok(Some(150)), Ok(None)));
        assert_eq!(millis("0s").expect_err("no time"), "expected a time such as `60s`, or `off`, found `0s`");
        let error = millis("60").expect_err("no unit");
        assert!(error.contains("needs a unit") && error.ends_with("; or `off`"), "{error}");
    }

    #[test]
    fn it_speaks_seldom_and_ever_more_seldom() {
        let mut watchdog = Watchdog::new(60 * SECOND);
        let mut said = Vec::new();
        for second in 0..2000 {
            said.extend(watchdog.after(second * SECOND).map(|alarm| (second, alarm.again.as_secs())));
        }
        assert_eq!(said, [(60, 120), (120, 240), (240, 480), (480, 960), (960, 1920), (1920, 3840)]);
        assert_eq!(watchdog.after(SECOND), None);
        assert_eq!(watchdog.after(61 * SECOND).map(|alarm| alarm.again), Some(120 * SECOND), "it begins anew");
    }

    fn held(owner: Owner, node: usize, at_work: bool, what: &str) -> Held {
        Held { owner, node, at_work, since: 61 * SECOND, what: Some(what.to_owned()) }
    }

    fn said(in_hand: Vec<Held>, processor: Duration) -> String {
        let open = vec![OpenShard { name: "s-01".to_owned(), pass: 1, tracks: 4, through: 3 }];
        let mut record = record(0, 60.0, [0.0, 0.5, 0.9]);
        (record.processes, record.memory.limit, record.writer_queue) = (1, 1 << 30, 12);
        let situation = Situation { in_hand, open, processor: Some(processor) };
        text(&Alarm { still: 61 * SECOND, again: 120 * SECOND }, &record, &situation)
    }

    #[test]
    fn a_hang_is_a_warning_that_names_who_has_the_work() {
        let text = said(vec![held(Owner::Lane, 1, true, "`a.flac` (shard s-01)")], SECOND);
        for words in [
            "warning: nothing has moved for 1:01, and nothing computes\n",
            "\n  audio is busy since 1:01 on `a.flac` (shard s-01)\n",
            "\n  shard s-01 in pass 2: 3 of 4 recordings are through\n",
            "\n  memory: 0B of 1.0GiB held; writers: 12 queued\n",
            "\n  audio   decode ",
            "said again when it has been 2:00",
        ] {
            assert!(text.contains(words), "no `{words}` in\n{text}");
        }
        assert!(said(Vec::new(), SECOND).contains("nobody has anything in hand"));
        assert!(said(vec![held(Owner::Lane, 1, false, "x")], SECOND).contains("audio waits since 1:01 to go on on x"));
        let writer = said(vec![held(Owner::Writer, 1, true, "the commit of shard s-01")], Duration::ZERO);
        assert!(writer.contains("the writer is busy since 1:01 for audio on the commit"), "{writer}");
    }

    #[test]
    fn long_work_is_no_fault() {
        let training = said(vec![held(Owner::Corpus, 2, true, "")], Duration::ZERO);
        assert!(training.starts_with("note: model is busy since 1:01 with one call"), "{training}");
        let decoding = said(vec![held(Owner::Lane, 1, true, "x")], 60 * SECOND);
        assert!(decoding.starts_with("note: audio is busy since 1:01"), "{decoding}");
    }

    #[test]
    fn the_log_grows() {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("watchdog-0.log");
        append(&log, "one").and_then(|()| append(&log, "two")).expect("written");
        let text = std::fs::read_to_string(&log).expect("there");
        assert!(text.contains(" UTC\none\n\n2") && text.ends_with("\ntwo\n\n"), "{text}");
    }
}
