//! Does every graph that we ship mean something, from a fresh clone?

use std::fs;
use std::path::{Path, PathBuf};

use omar_flow::Plan;
use omar_schemas::units::Bytes;
use omar_stages::encoder::import;

fn graphs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() { graphs(&path, found) } else { found.push(path) }
    }
}

#[test]
fn every_config_binds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let registry = omar_stages::ops::registry();
    // Neither are trained encoders: a small one in the published layout is imported.
    let model = tempfile::tempdir().expect("a temporary folder");
    let published = root.join("tests/golden/checkpoint_base");
    let imported = import::read(&published, &import::ImportOptions::default()).expect("it is imported");
    imported.write(model.path()).expect("it is written");
    // Rendered music with labels is made by a script: a list of one recording stands in for it.
    fs::write(model.path().join("manifest.csv"), "path,id,split\na.wav,a,train\n").expect("it is written");
    fs::write(model.path().join("labels.csv"), "path,task,start,end,label\na.wav,pitch,,,60\n").expect("it is written");
    let mut found = Vec::new();
    graphs(&root.join("configs"), &mut found);
    for path in &found {
        // EnCodec's weights are not ours to ship: a small encoder of the same layout stands in for them.
        let encodec = format!("vars.encodec={}", root.join("tests/golden/encodec_small").display());
        let text = fs::read_to_string(path).expect("readable");
        if text.contains("\ncompare:") {
            // A table of graphs, which `tests/comparison.rs` looks at.
            continue;
        }
        let mut sets = if text.contains("vars.encodec") { vec![encodec] } else { Vec::new() };
        if text.contains("vars.statistics") {
            let folder = if text.contains("statistics-16k") { "statistics_16k" } else { "statistics" };
            sets.push(format!("vars.statistics={}", root.join("tests/golden").join(folder).display()));
        }
        let shipped = text.contains("examples/benchmark");
        let wanted = |name: &&&str| text.contains(**name) && !(shipped && **name == "vars.data");
        for name in ["vars.model", "vars.untrained", "vars.data"].iter().filter(wanted) {
            sets.push(format!("{name}={}", model.path().display()));
        }
        if let Err(report) = Plan::load(path, &sets, &registry) {
            panic!("{}:\n{}", path.display(), report.render(false));
        }
    }
    assert!(found.len() >= 16, "{found:?}");
}

#[test]
fn configs_of_models_state_what_they_take() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let registry = omar_stages::ops::registry();
    let mut found = vec![root.join("configs/pretrain.yaml")];
    graphs(&root.join("configs/pretrain"), &mut found);
    for path in found {
        let encodec = format!("vars.encodec={}", root.join("tests/golden/encodec_small").display());
        let text = fs::read_to_string(&path).expect("readable");
        let sets = if text.contains("vars.encodec") { vec![encodec] } else { Vec::new() };
        let plan = Plan::load(&path, &sets, &registry).expect("it binds");
        let estimate = plan.nodes.iter().find_map(|node| node.stage.estimate()).expect("a node trains");
        let head = text.split("omar: 1").next().unwrap_or_default().replace("\n# ", " ");
        let (millions, bytes) = (estimate.parameters as f64 / 1e6, Bytes(estimate.memory.total()));
        let digits = usize::from(millions < 99.95);
        let expected = [
            format!("{millions:.digits$} M parameters"),
            format!("{} positions a second", estimate.rate_hz),
            format!("about {bytes} at {} crops", estimate.minibatch),
        ];
        for words in expected {
            assert!(head.contains(&words), "`{words}` is not in the head of {}:\n{head}", path.display());
        }
    }
}

#[test]
fn a_graph_without_the_weights_of_encodec_says_what_to_put_where() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/tokenize/multifeature.yaml");
    let sets = ["vars.encodec=no/such/folder".to_owned()];
    let report = Plan::load(&path, &sets, &omar_stages::ops::registry()).expect_err("no weights").render(false);
    for words in ["no/such/folder/config.json", "`model.safetensors`", "encodec_24khz", "leave `encodec` out"] {
        assert!(report.contains(words), "{report}");
    }
}
