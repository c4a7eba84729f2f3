//! Are metrics equal to those of mir_eval, scikit-learn and SciPy, and beats to those that madmom decodes? Golden numbers
//! by benches/parity/score.py and beats.py.

use omar_stages::score::chord::{self, Annotation, Chord, Comparison, compare};
use omar_stages::score::dbn::{BarDecoder, BeatDecoder};
use omar_stages::score::segment::{Ceiling, Segmentation};
use omar_stages::score::{beat, ordinal, ranking, segment};
use serde_json::Value;

const TOLERANCE: f64 = 1e-9;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/score.json")).expect("golden numbers")
}

fn cases(of: &str) -> Vec<Value> {
    golden()[of].as_array().expect("cases").clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("numbers").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn integers(value: &Value) -> Vec<i64> {
    value.as_array().expect("numbers").iter().map(|number| number.as_i64().expect("an integer")).collect()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().expect("words").iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
}

fn spans(value: &Value) -> (Vec<(f64, f64)>, Vec<String>) {
    let pairs = value[0].as_array().expect("intervals").iter().map(numbers);
    (pairs.map(|pair| (pair[0], pair[1])).collect(), words(&value[1]))
}

/// NaN is `null` there.
fn check(found: f64, expected: &Value, what: &str) {
    match expected.as_f64() {
        Some(expected) => assert!((found - expected).abs() <= TOLERANCE, "{what}: {found}, expected {expected}"),
        None => assert!(found.is_nan(), "{what}: {found}, expected NaN"),
    }
}

#[test]
fn beats_score_as_in_mir_eval() {
    for (index, case) in cases("beats").iter().enumerate() {
        let (reference, estimate) = (numbers(&case["reference"]), numbers(&case["estimate"]));
        let found = beat::evaluate(&reference, &estimate).expect("times ascend");
        for (name, value) in [
            ("F-measure", found.f_measure),
            ("Cemgil", found.cemgil.0),
            ("Cemgil Best Metric Level", found.cemgil.1),
            ("Goto", found.goto),
            ("P-score", found.p_score),
            ("Correct Metric Level Continuous", found.cmlc),
            ("Correct Metric Level Total", found.cmlt),
            ("Any Metric Level Continuous", found.amlc),
            ("Any Metric Level Total", found.amlt),
            ("Information gain", found.information_gain),
        ] {
            check(value, &case["scores"][name], &format!("case {index}, {name}"));
        }
    }
}

#[test]
fn chords_are_what_they_are_in_mir_eval() {
    for case in cases("encodings") {
        let label = case["label"].as_str().expect("a label");
        let read = if case["reduce"] == true { Chord::parse_reduced(label) } else { Chord::parse(label) };
        let chord = read.unwrap_or_else(|error| panic!("{error}"));
        let found = (i64::from(chord.root), chord.semitones.map(i64::from).to_vec(), i64::from(chord.bass));
        let expected = (case["root"].as_i64(), integers(&case["semitones"]), case["bass"].as_i64());
        assert_eq!((Some(found.0), found.1, Some(found.2)), expected, "{label}, {}", case["reduce"]);
    }
}

#[test]
fn chords_compare_as_in_mir_eval() {
    let golden = &golden()["comparisons"];
    let all = [
        ("root", Comparison::Root),
        ("thirds", Comparison::Thirds),
        ("thirds_inv", Comparison::ThirdsInv),
        ("triads", Comparison::Triads),
        ("triads_inv", Comparison::TriadsInv),
        ("tetrads", Comparison::Tetrads),
        ("tetrads_inv", Comparison::TetradsInv),
        ("mirex", Comparison::Mirex),
        ("majmin", Comparison::Majmin),
        ("majmin_inv", Comparison::MajminInv),
        ("sevenths", Comparison::Sevenths),
        ("sevenths_inv", Comparison::SeventhsInv),
    ];
    let (reference, estimate) = (words(&golden["reference"]), words(&golden["estimate"]));
    for (name, how) in all {
        for ((reference, estimate), expected) in reference.iter().zip(&estimate).zip(numbers(&golden["values"][name])) {
            let [a, b] = [reference, estimate].map(|label| Chord::parse(label).expect("a chord"));
            let found = compare(how, &a, &b).map_or(-1.0, |right| f64::from(u8::from(right)));
            assert_eq!(found, expected, "{name}: {reference} and {estimate}");
        }
    }
}

#[test]
fn chord_annotations_score_as_in_mir_eval() {
    for (index, case) in cases("chords").iter().enumerate() {
        let of = |side: &str| {
            let (intervals, labels) = spans(&case[side]);
            Annotation { intervals, labels }
        };
        let found = chord::evaluate(&of("reference"), &of("estimate")).expect("chords");
        for (name, value) in [
            ("thirds", found.thirds),
            ("thirds_inv", found.thirds_inv),
            ("triads", found.triads),
            ("triads_inv", found.triads_inv),
            ("tetrads", found.tetrads),
            ("tetrads_inv", found.tetrads_inv),
            ("root", found.root),
            ("mirex", found.mirex),
            ("majmin", found.majmin),
            ("majmin_inv", found.majmin_inv),
            ("sevenths", found.sevenths),
            ("sevenths_inv", found.sevenths_inv),
            ("underseg", found.underseg),
            ("overseg", found.overseg),
            ("seg", found.seg),
        ] {
            check(value, &case["scores"][name], &format!("case {index}, {name}"));
        }
    }
}

#[test]
fn sections_score_as_in_mir_eval() {
    for (index, case) in cases("segments").iter().enumerate() {
        let of = |side: &str| {
            let (intervals, labels) = spans(&case[side]);
            Segmentation { intervals, labels }
        };
        let found = segment::evaluate(&of("reference"), &of("estimate")).expect("sections");
        for (name, value) in [
            ("Precision@0.5", found.hit_half.precision),
            ("Recall@0.5", found.hit_half.recall),
            ("F-measure@0.5", found.hit_half.f),
            ("F-measure@3.0", found.hit_three.f),
            ("Ref-to-est deviation", found.deviation.0),
            ("Est-to-ref deviation", found.deviation.1),
            ("Pairwise Precision", found.pairwise.precision),
            ("Pairwise Recall", found.pairwise.recall),
            ("Pairwise F-measure", found.pairwise.f),
            ("Rand Index", found.rand_index),
            ("Adjusted Rand Index", found.adjusted_rand_index),
            ("Mutual Information", found.mutual_information.0),
            ("Normalized Mutual Information", found.mutual_information.1),
            ("Adjusted Mutual Information", found.adjusted_mutual_information),
            ("NCE Over", found.nce.precision),
            ("NCE Under", found.nce.recall),
            ("NCE F-measure", found.nce.f),
            ("V Precision", found.v_measure.precision),
            ("V Recall", found.v_measure.recall),
            ("V-measure", found.v_measure.f),
        ] {
            // Where there is nothing to know, mir_eval divides rounding by 1e-10.
            if name == "Normalized Mutual Information" && found.mutual_information.0.abs() < 1e-12 {
                continue;
            }
            check(value, &case["scores"][name], &format!("case {index}, {name}"));
        }
    }
}

/// The fixtures of mir_eval in the folder that `OMAR_ANNOTATIONS` names: reference, estimate and scores of each.
fn fixtures(of: &str, extension: &str) -> Vec<(String, String, Value)> {
    let Some(root) = std::env::var_os("OMAR_ANNOTATIONS") else {
        eprintln!("skipped: OMAR_ANNOTATIONS names no folder of annotations");
        return Vec::new();
    };
    let folder = std::path::Path::new(&root).join("mir_eval_fixtures").join(of);
    let read = |name: String| std::fs::read_to_string(folder.join(name));
    let triple = |n: usize| {
        let output = read(format!("output{n:02}.json")).ok()?;
        let [reference, estimate] =
            ["ref", "est"].map(|side| read(format!("{side}{n:02}.{extension}")).expect("a fixture"));
        Some((reference, estimate, serde_json::from_str(&output).expect("scores")))
    };
    (0..100).filter_map(triple).collect()
}

/// Lines `start end label`, the label with whatever spaces it has.
fn labelled(text: &str) -> (Vec<(f64, f64)>, Vec<String>) {
    let line = |line: &str| {
        let mut words = line.trim().splitn(3, char::is_whitespace).map(str::trim).filter(|word| !word.is_empty());
        let (start, end) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(((start, end), words.next().unwrap_or_default().to_owned()))
    };
    text.lines().filter_map(line).unzip()
}

#[test]
fn the_fixtures_of_mir_eval_score_as_they_say() {
    for (reference, estimate, scores) in fixtures("beat", "txt") {
        let times = |text: &str| text.lines().filter_map(|line| line.trim().parse().ok()).collect::<Vec<f64>>();
        let found = beat::evaluate(&times(&reference), &times(&estimate)).expect("beats");
        check(found.f_measure, &scores["F-measure"], "F-measure");
        check(found.cmlt, &scores["Correct Metric Level Total"], "CMLt");
        check(found.amlc, &scores["Any Metric Level Continuous"], "AMLc");
        check(found.information_gain, &scores["Information gain"], "information gain");
        check(found.p_score, &scores["P-score"], "P-score");
        check(found.goto, &scores["Goto"], "Goto");
    }
    for (reference, estimate, scores) in fixtures("chord", "lab") {
        let of = |text: &str| {
            let (intervals, labels) = labelled(text);
            Annotation { intervals, labels }
        };
        let found = chord::evaluate(&of(&reference), &of(&estimate)).expect("chords");
        check(found.majmin, &scores["majmin"], "majmin");
        check(found.mirex, &scores["mirex"], "mirex");
        check(found.sevenths_inv, &scores["sevenths_inv"], "sevenths_inv");
        check(found.tetrads, &scores["tetrads"], "tetrads");
    }
    for (reference, estimate, scores) in fixtures("segment", "lab") {
        let of = |text: &str| {
            let (intervals, labels) = labelled(text);
            Segmentation { intervals, labels }
        };
        let found = segment::evaluate(&of(&reference), &of(&estimate)).expect("sections");
        check(found.hit_half.f, &scores["F-measure@0.5"], "F-measure@0.5");
        check(found.hit_three.f, &scores["F-measure@3.0"], "F-measure@3.0");
        check(found.pairwise.f, &scores["Pairwise F-measure"], "pairwise");
        check(found.nce.f, &scores["NCE F-measure"], "NCE");
        check(found.adjusted_rand_index, &scores["Adjusted Rand Index"], "ARI");
    }
}

#[test]
fn rankings_score_as_in_scikit_learn() {
    for case in cases("rankings") {
        let scores = numbers(&case["scores"]);
        let positive: Vec<bool> = case["positive"].as_array().expect("labels").iter().map(|p| p == true).collect();
        check(ranking::average_precision(&scores, &positive), &case["average_precision"], "average precision");
        check(ranking::roc_auc(&scores, &positive), &case["roc_auc"], "ROC-AUC");
    }
}

#[test]
fn grades_score_as_in_scikit_learn_and_scipy() {
    for case in cases("grades") {
        let (truth, found) = (integers(&case["truth"]), integers(&case["found"]));
        check(ordinal::macro_mse(&truth, &found), &case["macro_mse"], "macro MSE");
        check(ordinal::balanced_accuracy(&truth, &found), &case["balanced_accuracy"], "balanced accuracy");
        check(ordinal::kendall_tau_b(&truth, &found), &case["kendall_tau_b"], "tau");
    }
}

#[test]
fn clusterings_score_as_in_scikit_learn() {
    for (index, case) in cases("clusterings").iter().enumerate() {
        let [truth, found] = ["truth", "found"].map(|side| integers(&case[side]));
        let [truth, found] = [truth, found].map(|side| side.iter().map(|label| *label as usize).collect::<Vec<_>>());
        for (ceiling, name) in [(Ceiling::Mean, "mean"), (Ceiling::Maximum, "maximum")] {
            let value = segment::adjusted_mutual_information(&truth, &found, ceiling);
            check(value, &case[name], &format!("case {index}, {name}"));
        }
    }
}

/// The frames that times are of: they are whole but for the last digits of the times.
fn frames(times: &[f64], rate: f64) -> Vec<u32> {
    let frame = |time: &f64| {
        assert!((time * rate - (time * rate).round()).abs() < 1e-9, "{time} s is no frame");
        (time * rate).round() as u32
    };
    times.iter().map(frame).collect()
}

fn decoded(of: &str) -> Vec<Value> {
    let golden: Value = serde_json::from_str(include_str!("golden/beats.json")).expect("golden numbers");
    golden[of].as_array().expect("cases").clone()
}

#[test]
fn beats_are_decoded_as_by_madmom() {
    for (index, case) in decoded("beats").iter().enumerate() {
        let (activations, rate) = (numbers(&case["activations"]), case["fps"].as_f64().expect("a rate"));
        let mut decoder = BeatDecoder::new(rate);
        let (likelihood, beats) = decoder.path(&activations);
        check(likelihood, &case["likelihood"], &format!("case {index}, log-probability"));
        assert_eq!(frames(&beats, rate), frames(&numbers(&case["beats"]), rate), "case {index}");
        decoder.correct = false;
        let (found, expected) = (decoder.decode(&activations), numbers(&case["uncorrected"]));
        assert_eq!(frames(&found, rate), frames(&expected, rate), "case {index}, as the path has them");
    }
}

#[test]
fn bars_are_decoded_as_by_madmom() {
    for (index, case) in decoded("bars").iter().enumerate() {
        let [others, downbeats] = ["others", "downbeats"].map(|kind| numbers(&case[kind]));
        let rate = case["fps"].as_f64().expect("a rate");
        for (name, meters) in [("3 or 4", &[3, 4][..]), ("2", &[2]), ("5", &[5])] {
            let rows = case["bars"][name].as_array().expect("beats").iter().map(numbers);
            let (times, places): (Vec<f64>, Vec<u32>) = rows.map(|row| (row[0], row[1] as u32)).unzip();
            let found = BarDecoder::with_bars(rate, meters).decode_exclusive(&others, &downbeats);
            let (own, own_places): (Vec<f64>, Vec<u32>) = found.into_iter().unzip();
            let expected = (frames(&times, rate), places);
            assert_eq!((frames(&own, rate), own_places), expected, "case {index}, bars of {name}");
        }
    }
}
