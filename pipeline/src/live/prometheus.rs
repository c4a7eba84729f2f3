//! A record in the text format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write as _;

use super::record::{NodeRecord, Record};
use crate::metrics::NodeCounts;

/// What answers say they are.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric of a node.
struct NodeMetric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&NodeRecord) -> f64,
}

/// A metric of a process.
struct ProcessMetric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Record) -> Option<f64>,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&NodeRecord) -> f64) -> NodeMetric {
    NodeMetric { name, kind: "counter", help, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Record) -> Option<f64>) -> ProcessMetric {
    ProcessMetric { name, kind: "gauge", help, value }
}

fn counts(of: &NodeRecord) -> &NodeCounts {
    &of.counts
}

const NODES: [NodeMetric; 15] = [
    counter("node_rows_in_total", "Rows that arrived.", |node| counts(node).rows_in as f64),
    counter("node_rows_out_total", "Rows that were computed.", |node| counts(node).rows_out as f64),
    counter("node_rows_cached_total", "Rows that were read from the cache.", |node| counts(node).rows_cached as f64),
    counter("node_bytes_out_total", "Size in memory of the rows that were computed.", |node| {
        counts(node).bytes_out as f64
    }),
    counter("node_rejected_total", "Recordings that were given up on.", |node| counts(node).rejected as f64),
    counter("node_audio_seconds_total", "Audio that the computed rows stand for.", |node| counts(node).audio_s),
    counter("node_busy_seconds_total", "Time at work, summed over threads.", |node| counts(node).busy_s),
    counter("node_write_seconds_total", "The part of it in which rows were written to the cache.", |node| {
        counts(node).write_s
    }),
    counter("node_shards_cached_total", "Shards that were in the cache before the run.", |node| {
        counts(node).shards_cached as f64
    }),
    counter("node_shards_committed_total", "Shards that this run committed.", |node| {
        counts(node).shards_committed as f64
    }),
    counter("node_committed_bytes_total", "Their size on disk.", |node| counts(node).bytes_committed as f64),
    NodeMetric {
        name: "node_queued",
        kind: "gauge",
        help: "Batches or recordings that wait for the node.",
        value: |node| node.queued as f64,
    },
    NodeMetric {
        name: "node_in_flight",
        kind: "gauge",
        help: "Threads that are at work in the node.",
        value: |node| node.in_flight as f64,
    },
    NodeMetric {
        name: "node_busy_since_seconds",
        kind: "gauge",
        help: "How long the oldest call that is under way has taken.",
        value: |node| node.busy_since_s.unwrap_or(0.0),
    },
    NodeMetric {
        name: "node_training_step",
        kind: "gauge",
        help: "Training steps done, of nodes that train.",
        value: |node| node.steps.map_or(f64::NAN, |steps| steps.done as f64),
    },
];

const PROCESS: [ProcessMetric; 15] = [
    gauge("start_time_seconds", "When the process began, since 1970.", |record| Some(record.started)),
    gauge("elapsed_seconds", "Time since then.", |record| Some(record.elapsed_s)),
    gauge("pass", "Pass over the corpus, from 1.", |record| Some(f64::from(record.pass))),
    gauge("shards", "Shards of the corpus.", |record| Some(record.shards.total as f64)),
    gauge("shards_done", "Shards that are through in the first pass.", |record| Some(record.shards.done as f64)),
    gauge("tracks", "Recordings of the corpus.", |record| Some(record.tracks.total as f64)),
    gauge("tracks_done", "Recordings that are through in the first pass.", |record| Some(record.tracks.done as f64)),
    gauge("rejected", "Recordings in the quarantine.", |record| Some(record.rejected as f64)),
    gauge("realtime", "Seconds of audio per second, lately.", |record| Some(record.realtime)),
    gauge("left_seconds", "About how long the run will go on.", |record| record.left_s),
    gauge("still_seconds", "Time since anything moved.", |record| Some(record.still_s)),
    gauge("memory_held_bytes", "What rows on their way hold.", |record| Some(record.memory.held as f64)),
    gauge("memory_limit_bytes", "What they may hold.", |record| Some(record.memory.limit as f64)),
    gauge("resident_memory_bytes", "What the process holds in all.", |record| {
        record.memory.resident.map(|bytes| bytes as f64)
    }),
    gauge("writer_queue", "Batches that wait to be written.", |record| Some(record.writer_queue as f64)),
];

/// All metrics of a process.
pub(crate) fn text(record: &Record) -> String {
    let mut out = String::new();
    let process = format!("graph=\"{}\",process=\"{}\"", escape(&record.graph), record.process);
    let version = env!("CARGO_PKG_VERSION");
    head(&mut out, "build_info", "gauge", "Version of the program.");
    let _infallible = writeln!(out, "omar_flow_build_info{{version=\"{version}\"}} 1");
    for metric in &PROCESS {
        let Some(value) = (metric.value)(record) else { continue };
        head(&mut out, metric.name, metric.kind, metric.help);
        let _infallible = writeln!(out, "omar_flow_{}{{{process}}} {}", metric.name, number(value));
    }
    let labels =
        |node: &NodeRecord| format!("{process},node=\"{}\",stage=\"{}\"", escape(&node.node), escape(&node.stage));
    for metric in &NODES {
        let values: Vec<(&NodeRecord, f64)> =
            record.nodes.iter().map(|node| (node, (metric.value)(node))).filter(|value| !value.1.is_nan()).collect();
        if values.is_empty() {
            continue;
        }
        head(&mut out, metric.name, metric.kind, metric.help);
        for (node, value) in values {
            let _infallible = writeln!(out, "omar_flow_{}{{{}}} {}", metric.name, labels(node), number(value));
        }
    }
    head(
        &mut out,
        "node_wait_seconds_total",
        "counter",
        "Time in which threads had nothing to do, by what they waited for.",
    );
    for node in &record.nodes {
        let counts = &node.counts;
        let waits = [
            ("input", counts.wait_input_s),
            ("memory", counts.wait_memory_s),
            ("downstream", counts.wait_downstream_s),
        ];
        for (wait, seconds) in waits {
            let _infallible = writeln!(
                out,
                "omar_flow_node_wait_seconds_total{{{},for=\"{wait}\"}} {}",
                labels(node),
                number(seconds)
            );
        }
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _infallible = write!(out, "# HELP omar_flow_{name} {help}\n# TYPE omar_flow_{name} {kind}\n");
}

/// Without an exponent, as every reader takes it.
fn number(value: f64) -> String {
    if value == value.trunc() { format!("{value:.0}") } else { format!("{value:.6}") }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::load::tests::record;
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut record = record(1, 10.0, [0.0, 0.5, 0.9]);
        record.graph = "my \"graph\"".to_owned();
        let text = text(&record);
        let audio = r#"{graph="my \"graph\"",process="1",node="audio",stage="decode"}"#;
        assert!(text.contains(&format!("\nomar_flow_node_busy_seconds_total{audio} 5\n")), "{text}");
        assert!(text.contains(r#",stage="pretrain",for="input"} 1"#), "{text}");
        assert!(!text.contains("left_seconds") && !text.contains("training_step"), "nothing is known of these");
        let mut families = std::collections::BTreeSet::new();
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().expect("a name");
                assert!(families.insert(family), "{family} is there twice");
            } else if !line.starts_with("# TYPE ") {
                let (name, value) = line.rsplit_once(' ').expect("a name and a value");
                assert!(name.starts_with(&format!("{family}{{")) && value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }
}
