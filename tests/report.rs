//! Can a training be watched: event files, the page, what it was compared with?

mod program;

use std::fs;

use program::{Options, Program, text, walk};

#[test]
fn a_run_leaves_a_page_event_files_and_what_a_constant_answer_reaches() {
    let program = Program::new(&Options { train: true, steps: 8, ..Options::default() });
    let summary = program.json(&["run", "graph.yaml", "--set", "nodes.model.params.valid.every=4"]);
    let training = &summary["nodes"].as_array().expect("nodes").last().expect("a model")["training"];
    let unigram = training["unigram"].as_f64().expect("held-out crops were predicted");
    assert!(unigram > 1.0 / 64.0 && unigram < 1.0, "{unigram}");

    let run = program.runs().remove(0);
    let events = |run: &std::path::Path| {
        walk(run).iter().filter(|path| path.to_string_lossy().contains("model/events.out.tfevents.")).count()
    };
    assert_eq!(events(&run), 1);
    assert!(fs::read_to_string(run.join("curves.svg")).expect("readable").contains("Accuracy of masked tokens"));
    let page = fs::read_to_string(run.join("report.html")).expect("readable");
    for words in [
        "held-out accuracy; unigram",
        "Held-out crops after step 8",
        "data:image/png;base64,",
        "Codebooks of test",
        "8 / 8",
    ] {
        assert!(page.contains(words), "`{words}` is not on the page");
    }
    // A crop has the name of its recording, and where in it it begins.
    assert!(page.contains(".wav from 0:0") && !page.contains("<figcaption>track 0"), "crops are named by hashes");
    // Nothing is fetched: the only addresses are the names of namespaces.
    let addresses = page.matches("http").count();
    assert_eq!(addresses, page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    assert!(!page.contains("<script") && !page.contains("NaN"));

    // Made again from the files alone, and while a run is under way: then there is neither end nor summary.
    let folder = run.display().to_string();
    assert_eq!(program.ok(&["report", &folder]).trim(), run.join("report.html").display().to_string());
    assert_eq!(fs::read_to_string(run.join("report.html")).expect("readable"), page);
    fs::remove_file(run.join("summary.json")).expect("it was there");
    program.ok(&["report", &folder]);

    let described = program.ok(&["inspect", &folder]);
    assert!(described.contains("accuracy  unigram"), "{described}");
    let valid = &program.json(&["inspect", &folder])["run"]["training"][0]["valid"];
    assert_eq!(valid["unigram"].as_f64(), Some(unigram), "{valid}");

    let wrong = program.output(&["report", "audio"]);
    assert_eq!(wrong.status.code(), Some(2));
    let message = text(&wrong.stderr);
    assert!(message.contains("`audio` is not the folder of a run: it has no manifest.json"), "{message}");
}

#[test]
fn a_training_that_runs_out_of_time_says_what_held_out_crops_say() {
    let program = Program::new(&Options { train: true, steps: 1_000_000, ..Options::default() });
    let node = "nodes.model.params.";
    let set = |change: &str| ["--set".to_owned(), format!("{node}{change}")];
    let changes: Vec<String> =
        ["max_time=1s", "valid.every=900000", "log_every=900000"].into_iter().flat_map(set).collect();
    let args: Vec<&str> = ["run", "graph.yaml"].into_iter().chain(changes.iter().map(String::as_str)).collect();
    let output = program.output(&args);
    let said = text(&[output.stdout, output.stderr].concat());
    assert!(output.status.success() && said.contains("held-out crops: loss "), "{said}");
    assert!(said.contains("unigram ") && said.contains("/1000000, loss "), "{said}");
}

#[test]
fn a_plan_says_what_a_training_takes() {
    let program = Program::new(&Options { train: true, steps: 8, tracks: 1 });
    let plan = program.ok(&["plan", "graph.yaml"]);
    for words in ["model: 8 steps of 4 crops", "31 positions in a crop of 2 s", "this machine, CPU", "measured f32"] {
        assert!(plan.contains(words), "`{words}` is not in\n{plan}");
    }
    let json = program.json(&["plan", "graph.yaml"]);
    let forecast = &json["forecasts"][0];
    assert!(forecast["estimate"]["parameters"].as_u64() > Some(10_000), "{forecast}");
    assert!(forecast["machines"][0]["steps_per_s"].as_f64() > Some(0.0), "{forecast}");
}
