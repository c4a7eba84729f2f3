//! What happens to recordings that fail: `on_error` of a node, `errors` of the graph.

use omar_schemas::units::Duration;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, did_you_mean, one_of};
use crate::reader::Reader;
use crate::spans::KeyPath;
use crate::yaml::describe;

/// The class of rejections that may be tried again: what the operating system refuses today it may give tomorrow, while
/// corrupt data stays corrupt.
pub const IO: &str = "io";

/// The longest pause between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(60.0);

/// `on_error:`, what to do with recordings that a node rejects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// List them in the quarantine and go on.
    #[default]
    Quarantine,
    /// Count them and go on.
    Drop,
    /// End the run at the first.
    Fail,
}

impl OnError {
    /// As written in YAML.
    pub const NAMES: [&str; 3] = ["quarantine", "drop", "fail"];

    /// Reads one of [`OnError::NAMES`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "quarantine" => Some(Self::Quarantine),
            "drop" => Some(Self::Drop),
            "fail" => Some(Self::Fail),
            _ => None,
        }
    }
}

/// `on_error: {retry: ...}`: recordings that fail for reasons of input and output are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Retry {
    /// How often a recording is tried, the first time included.
    pub attempts: u32,
    /// The pause before the second try; every further one is twice as long, up to a minute.
    pub wait: Duration,
}

impl Retry {
    /// The pause after the `tried`-th try, from 1; `None` after the last.
    pub(crate) fn pause(&self, tried: u32) -> Option<std::time::Duration> {
        let doubled = self.wait.seconds() * 2f64.powi(tried.saturating_sub(1).min(62).cast_signed());
        let seconds = doubled.min(LONGEST_WAIT.seconds());
        (tried < self.attempts).then(|| std::time::Duration::from_secs_f64(seconds))
    }
}

/// A share as people say it: `2.5 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{} %", (share * 1e4).round() / 1e2)
}

/// `errors: {stop_if: ...}`: the circuit breaker of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StopIf {
    /// The largest share of recordings that may be rejected, from 0 to 1.
    pub rate: f64,
    /// How many recordings must have been tried before that is judged.
    pub after: u64,
}

impl StopIf {
    /// Whether so many rejections are too many.
    pub fn is_tripped(&self, rejected: u64, tried: u64) -> bool {
        tried >= self.after && rejected as f64 > self.rate * tried as f64
    }
}

pub(crate) fn read_on_error(
    reader: &mut Reader<'_>,
    path: &KeyPath,
    value: &Value,
) -> Option<(OnError, Option<Retry>)> {
    let policy = match value {
        Value::Object(map) => {
            reader.unknown_keys(path, map, &["retry", "then"], "`on_error`");
            let then = match map.get("then") {
                Some(then) => read_word(reader, &path.child("then"), then)?,
                None => OnError::default(),
            };
            let Some(retry) = map.get("retry") else {
                let diagnostic =
                    Diagnostic::error("`on_error` as a map says what to try again, and `retry` is missing");
                let hint = "write `on_error: {retry: {attempts: 3, on: [io]}}`, or one word";
                reader.refuse_key(path, "expected `retry` here", diagnostic.hint(hint));
                return None;
            };
            (then, Some(read_retry(reader, &path.child("retry"), retry)?))
        }
        word => (read_word(reader, path, word)?, None),
    };
    Some(policy)
}

fn read_word(reader: &mut Reader<'_>, path: &KeyPath, value: &Value) -> Option<OnError> {
    let policy = value.as_str().and_then(OnError::parse);
    if policy.is_none() {
        let (name, names) = (path.last(), one_of(OnError::NAMES));
        let or_retry = if name == "on_error" { ", or a map with `retry`" } else { "" };
        let message = format!("`{name}` must be {names}{or_retry}, found {}", describe(value));
        let hint = value.as_str().and_then(|text| did_you_mean(text, OnError::NAMES));
        reader.refuse(path, Diagnostic::error(message).maybe_hint(hint));
    }
    policy
}

fn read_retry(reader: &mut Reader<'_>, path: &KeyPath, value: &Value) -> Option<Retry> {
    let example = "for example `retry: {attempts: 3, on: [io], wait: 500ms}`";
    let Value::Object(map) = value else {
        let message = format!("expected how often to try, found {}", describe(value));
        reader.refuse(path, Diagnostic::error(message).hint(example));
        return None;
    };
    reader.unknown_keys(path, map, &["attempts", "on", "wait"], "`retry`");
    let mut retry = Retry { attempts: 3, wait: Duration::from_secs(0.5) };
    if let Some(attempts) = map.get("attempts") {
        retry.attempts = u32::try_from(reader.count(&path.child("attempts"), attempts, 2..=100)?).ok()?;
    }
    if let Some(wait) = map.get("wait") {
        let parsed =
            wait.as_str().ok_or_else(|| format!("expected a duration such as `500ms`, found {}", describe(wait)));
        match parsed.and_then(Duration::parse).map(|wait| (wait, wait <= LONGEST_WAIT)) {
            Ok((wait, true)) => retry.wait = wait,
            Ok((_, false)) => {
                let message = format!("`wait` is at most {} s, found {}", LONGEST_WAIT.seconds(), describe(wait));
                reader.refuse(
                    &path.child("wait"),
                    Diagnostic::error(message).hint("every further pause is twice as long"),
                );
                return None;
            }
            Err(message) => {
                reader.refuse(&path.child("wait"), Diagnostic::error(format!("`wait`: {message}")));
                return None;
            }
        }
    }
    if let Some(on) = map.get("on").filter(|on| **on != json!([IO])) {
        let message = format!("only rejections of the class `{IO}` can be tried again, found {}", words(on));
        let hint = "write `on: [io]`: corrupt data stays corrupt however often it is read";
        reader.refuse(&path.child("on"), Diagnostic::error(message).hint(hint));
        return None;
    }
    Some(retry)
}

fn words(value: &Value) -> String {
    match value {
        Value::Array(items) if !items.is_empty() => items.iter().map(describe).collect::<Vec<_>>().join(", "),
        other => describe(other),
    }
}

/// `errors:` of a graph.
pub(crate) fn read_errors(reader: &mut Reader<'_>) -> Option<StopIf> {
    let path = KeyPath::new(["errors"]);
    let map = reader.map(&path, &["stop_if"], "`errors`")?;
    let (path, value) = (path.child("stop_if"), map.get("stop_if")?);
    let example = "for example `errors: {stop_if: {rate: 0.02, after: 1000}}`";
    let Value::Object(map) = value else {
        let message = format!("expected when to stop, found {}", describe(value));
        reader.refuse(&path, Diagnostic::error(message).hint(example));
        return None;
    };
    reader.unknown_keys(&path, map, &["rate", "after"], "`stop_if`");
    let rate = member(reader, &path, map, "rate", "the share of recordings that may be rejected, from 0 to 1");
    let after = member(reader, &path, map, "after", "how many recordings are tried before that is judged");
    let share = rate.and_then(Value::as_f64).filter(|share| (0.0..=1.0).contains(share));
    if let (None, Some(rate)) = (share, rate) {
        let message = format!("`rate` must be a share from 0 to 1, found {}", describe(rate));
        reader.refuse(&path.child("rate"), Diagnostic::error(message).hint("2 % is `rate: 0.02`"));
    }
    let after = reader.count(&path.child("after"), after?, 1..=u64::from(u32::MAX))?;
    Some(StopIf { rate: share?, after: after as u64 })
}

fn member<'v>(
    reader: &mut Reader<'_>,
    path: &KeyPath,
    map: &'v Map<String, Value>,
    name: &str,
    about: &str,
) -> Option<&'v Value> {
    let value = map.get(name);
    if value.is_none() {
        let diagnostic = Diagnostic::error(format!("`stop_if` has no `{name}`")).hint(format!("`{name}` is {about}"));
        reader.refuse_key(path, &format!("expected `{name}` here"), diagnostic);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_end_with_the_last_try() {
        let retry = Retry { attempts: 12, wait: Duration::from_secs(0.5) };
        let pauses: Vec<f64> =
            (1..=12).map_while(|tried| retry.pause(tried)).map(|pause| pause.as_secs_f64()).collect();
        assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]);
    }

    #[test]
    fn the_breaker_waits_and_then_judges_the_share() {
        let stop_if = StopIf { rate: 0.02, after: 100 };
        assert!(!stop_if.is_tripped(99, 99));
        assert!(!stop_if.is_tripped(2, 100));
        assert!(stop_if.is_tripped(3, 100));
        assert!(StopIf { rate: 0.0, after: 1 }.is_tripped(1, 500));
    }
}
