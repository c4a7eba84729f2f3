//! Does a graph in several files mean and do the same as in one?

mod program;

use std::fs;

use program::{Options, Program, text};

#[test]
fn a_graph_in_parts_makes_the_same_bytes_and_is_kept_whole() {
    let program = Program::new(&Options { tracks: 4, ..Options::default() });
    program.json(&["run", "graph.yaml"]);
    let one = program.cache();
    let graph = fs::read_to_string(program.path("graph.yaml")).expect("the graph");
    let (head, nodes) = graph.split_once("nodes:\n").expect("nodes");
    let (first, last) = nodes.split_once("  mel:").expect("features");
    fs::create_dir(program.path("parts")).expect("a folder");
    let template = "templates:\n  kept: &kept {cache: cache}\n";
    fs::write(program.path("parts/audio.yaml"), format!("{template}nodes:\n{first}")).expect("written");
    let last = last.replace(", cache: cache}", "}").replace("tokens:  {stage", "tokens:  {<<: *kept, stage");
    assert!(last.contains("<<: *kept"), "{last}");
    let whole = format!("{head}include: [parts/audio.yaml]\nnodes:\n  mel:{last}");
    fs::write(program.path("graph.yaml"), whole).expect("written");
    program.clear();
    program.json(&["run", "graph.yaml"]);
    assert!(program.cache() == one);
    let included = fs::read_to_string(program.runs()[0].join("included.yaml")).expect("kept");
    assert!(included.contains("# ---- parts/audio.yaml") && included.contains("kept: &kept"), "{included}");
    // From another folder: what is included is found beside the graph, wherever one is.
    let path = program.path("graph.yaml");
    let output = program
        .command(&["validate", &path.display().to_string()])
        .current_dir(program.path("audio"))
        .output()
        .expect("starts");
    let message = text(&output.stderr);
    assert!(!message.contains("cannot read"), "{message}");
    assert!(message.contains("there is no folder `audio`") && message.contains("parts/audio.yaml:4:"), "{message}");
}
