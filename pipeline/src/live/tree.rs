//! What a run did, as a tree: `explain RUN`.

use omar_schemas::units::Bytes;
use serde_json::Value;

use super::load::{NodeLoad, Picture};
use super::record::Record;
use super::table::{columns, cut, rate};
use crate::progress::{clock, hours};

/// What the records of a whole run say, beside those at its end.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct History {
    /// The most that rows on their way held in a process, and that a process held in all.
    pub(crate) held: u64,
    pub(crate) resident: u64,
    /// Earlier parts of the run in the same folder.
    pub(crate) parts: usize,
}

impl History {
    /// Takes in the records of a process.
    pub(crate) fn add(&mut self, records: &[Record]) {
        let Some(last) = records.last() else { return };
        for record in records.iter().filter(|record| record.started == last.started) {
            self.held = self.held.max(record.memory.held);
            self.resident = self.resident.max(record.memory.resident.unwrap_or(0));
        }
        let starts = records.windows(2).filter(|pair| pair[0].started != pair[1].started).count();
        self.parts = self.parts.max(starts);
    }
}

/// The run for people. `classes` are the rejections of the summary, if there is one.
pub(crate) fn text(picture: &Picture, history: &History, classes: &Value, width: usize) -> String {
    let mut lines = headline(picture, history);
    lines.push(String::new());
    lines.extend(tree(picture).iter().map(|line| cut(line, width)));
    lines.push(String::new());
    match &picture.bottleneck {
        Some(bottleneck) => lines.push(bottleneck.sentence(!picture.state().goes_on())),
        None => lines.push("nothing was computed: all that was asked for was there already".to_owned()),
    }
    for class in classes.as_array().into_iter().flatten() {
        let (name, count) = (class["class"].as_str().unwrap_or_default(), class["count"].as_u64().unwrap_or(0));
        let example = class["examples"][0]["path"].as_str().map(|path| format!(", such as {path}")).unwrap_or_default();
        let node = class["examples"][0]["node"].as_str().map(|node| format!(" by {node}")).unwrap_or_default();
        lines.push(format!("rejected{node}: {count} {name}{example}"));
    }
    for process in picture.processes.iter().filter(|process| process.error.is_some()) {
        lines.push(format!("process {}: {}", process.process, process.error.clone().unwrap_or_default()));
    }
    lines.join("\n") + "\n"
}

fn headline(picture: &Picture, history: &History) -> Vec<String> {
    let name = picture.processes.first().map_or("", |process| process.graph.as_str());
    let (state, time) = (picture.state().word(), clock(picture.elapsed_s()));
    let link = if picture.state().goes_on() { "for" } else { "after" };
    let tracks = picture.tracks();
    let mut first = format!(
        "{name}: {state} {link} {time}, {}/{} tracks in {} shards",
        tracks.done,
        tracks.total,
        picture.shards().total
    );
    let rejected = picture.sum(|process| process.rejected as f64);
    if rejected > 0.0 {
        first += &format!(", {rejected:.0} rejected");
    }
    let audio = picture.sum(|process| process.audio_s);
    if audio > 0.0 {
        first += &format!("; {} of audio, {} x realtime", hours(audio), rate(audio / picture.elapsed_s().max(1e-3)));
    }
    let threads: usize = picture.processes.iter().map(|process| process.threads).sum();
    let plural = |count: usize, what: &str| if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") };
    let processes = match picture.processes.len() {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    let mut second = format!("{processes}, {}", plural(threads, "thread"));
    let limit = picture.processes.iter().map(|process| process.memory.limit).max().unwrap_or(0);
    second += &format!("; rows on their way held {} of {} at most", Bytes(history.held), Bytes(limit));
    if history.resident > 0 {
        second += &format!(", a process {} in all", Bytes(history.resident));
    }
    let mut lines = vec![first, second];
    if history.parts > 0 {
        lines.push(format!(
            "the run was continued {}: this is its last part",
            match history.parts {
                1 => "once".to_owned(),
                times => format!("{times} times"),
            }
        ));
    }
    lines
}

/// A node under the one that it reads; of several, under the last in the order of the graph.
fn tree(picture: &Picture) -> Vec<String> {
    let header = [
        "node", "stage", "busy s", "busy", "waited s", "for", "rows in", "rows out", "cached", "audio", "memory",
        "on disk", "shards", "rejected",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let shards = picture.shards().total;
    for (label, node) in labels(&picture.nodes) {
        rows.push(cells(label, &picture.nodes[node], shards));
    }
    let says = |column: &usize| rows[1..].iter().any(|row| !matches!(row[*column].as_str(), "" | "-"));
    let keep: Vec<usize> = (0..header.len()).filter(says).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| keep.iter().map(|&column| row[column].clone()).collect()).collect();
    let left: Vec<usize> = (0..keep.len()).filter(|&at| [0, 1, 5].contains(&keep[at])).collect();
    columns(&rows, &left)
}

/// `│ └ tokens (+ mel)` and which node it is, in the order of the tree.
fn labels(nodes: &[NodeLoad]) -> Vec<(String, usize)> {
    let place = |name: &str| nodes.iter().position(|node| node.record.node == name);
    let parents: Vec<Option<usize>> =
        nodes.iter().map(|node| node.record.inputs.iter().filter_map(|input| place(input)).max()).collect();
    let children = |of: Option<usize>| (0..nodes.len()).filter(|&node| parents[node] == of).collect::<Vec<_>>();
    let mut labels = Vec::new();
    let mut open: Vec<(usize, String, String)> =
        children(None).into_iter().rev().map(|node| (node, String::new(), String::new())).collect();
    while let Some((node, own, below)) = open.pop() {
        let others = nodes[node].record.inputs.iter().filter(|input| place(input) != parents[node]);
        let others: Vec<&str> = others.map(String::as_str).collect();
        let others = if others.is_empty() { String::new() } else { format!(" (+ {})", others.join(", ")) };
        labels.push((format!("{own}{}{others}", nodes[node].record.node), node));
        let children = children(Some(node));
        let last = children.last().copied();
        for child in children.into_iter().rev() {
            let (branch, rest) = if Some(child) == last { ("└ ", "  ") } else { ("├ ", "│ ") };
            open.push((child, format!("{below}{branch}"), format!("{below}{rest}")));
        }
    }
    labels
}

fn cells(label: String, node: &NodeLoad, shards: u64) -> Vec<String> {
    let counts = &node.record.counts;
    let dash = |text: String, shown: bool| if shown { text } else { "-".to_owned() };
    let wait = counts.longest_wait().filter(|wait| wait.1 >= 0.005);
    let held = match (counts.shards_cached, counts.shards_committed) {
        (0, made) => format!("{made}/{shards} made"),
        (cached, 0) => format!("{cached}/{shards} cached"),
        (cached, made) => format!("{cached} cached, {made} made"),
    };
    vec![
        label,
        node.record.stage.clone(),
        format!("{:.2}", counts.busy_s),
        format!("{:.0} %", 100.0 * node.busy.max(node.writing)),
        dash(wait.map(|wait| format!("{:.2}", wait.1)).unwrap_or_default(), wait.is_some()),
        wait.map(|wait| wait.0.to_string()).unwrap_or_default(),
        dash(counts.rows_in.to_string(), counts.rows_in > 0),
        counts.rows_out.to_string(),
        dash(counts.rows_cached.to_string(), counts.rows_cached > 0),
        dash(hours(counts.audio_s), counts.audio_s > 0.0),
        dash(Bytes(counts.bytes_out).to_string(), counts.bytes_out > 0),
        dash(Bytes(counts.bytes_committed).to_string(), counts.bytes_committed > 0),
        dash(held, node.record.cache),
        dash(counts.rejected.to_string(), counts.rejected > 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::load::Span;
    use super::super::load::tests::record;
    use super::super::record::{Memory, NodeRecord};
    use super::*;

    #[test]
    fn nodes_hang_under_what_they_read() {
        let node = |name: &str, inputs: &[&str]| NodeLoad {
            record: NodeRecord {
                node: name.to_owned(),
                inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
                ..NodeRecord::default()
            },
            ..NodeLoad::default()
        };
        let nodes = [
            node("tracks", &[]),
            node("audio", &["tracks"]),
            node("mel", &["audio"]),
            node("cqt", &["audio"]),
            node("tokens", &["mel", "cqt"]),
            node("model", &["mel", "tokens"]),
        ];
        let found: Vec<String> = labels(&nodes).into_iter().map(|(label, _)| label).collect();
        let expected = ["tracks", "└ audio", "  ├ mel", "  └ cqt", "    └ tokens (+ mel)", "      └ model (+ mel)"];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_run_is_told_with_rejects_bottleneck_and_history() {
        let mut now = record(0, 60.0, [0.0, 0.5, 0.9]);
        (now.graph, now.state) = ("test".to_owned(), super::super::record::State::Complete);
        now.memory = Memory { held: 1 << 20, limit: 1 << 30, resident: Some(5 << 20) };
        let before = Record { started: -1.0, memory: Memory { held: 9 << 20, ..Memory::default() }, ..now.clone() };
        let mut history = History::default();
        history.add(&[before, now.clone()]);
        assert_eq!(history, History { held: 1 << 20, resident: 5 << 20, parts: 1 });
        let picture = Picture::of(vec![Span { before: None, now }]);
        let classes =
            serde_json::json!([{"class": "corrupt", "count": 2, "examples": [{"path": "a.mp3", "node": "audio"}]}]);
        let found = text(&picture, &history, &classes, 200);
        for words in [
            "test: complete after 1:00, 0/0 tracks in 8 shards\n",
            "1 process, 2 threads; rows on their way held 1.0MiB of 1.0GiB at most, a process 5.0MiB in all\n",
            "the run was continued once: this is its last part\n",
            "\n└ audio    decode     30.00  25 %         -",
            "\nbottleneck: model (pretrain), at work 90 % of the time; the pool waited for downstream 75 %\n",
            "\nrejected by audio: 2 corrupt, such as a.mp3\n",
        ] {
            assert!(found.contains(words), "no `{words}` in\n{found}");
        }
    }
}
