#!/usr/bin/env python3
"""Writes tests/golden/score.json: what mir_eval, scikit-learn and SciPy say about inputs made here.

    pip install mir_eval scikit-learn scipy
    python3 benches/parity/score.py tests/golden/score.json
"""

import json
import sys
import warnings

import mir_eval
import numpy as np
import scipy.stats
import sklearn.metrics

warnings.simplefilter("ignore")
dice = np.random.default_rng(20261123)


def finite(value):
    """JSON has no NaN."""
    value = float(value)
    return None if np.isnan(value) else value


def beats():
    cases = []
    for case in range(40):
        step = dice.uniform(0.3, 0.9)
        reference = np.sort(dice.uniform(0, 0.4) + step * np.arange(dice.integers(0, 60)) + dice.normal(0, 0.01))
        reference = np.abs(reference)
        found = reference + dice.normal(0, dice.choice([0.0, 0.02, 0.06]), len(reference))
        kind = case % 8
        if kind == 1:
            found = found[::2]
        elif kind == 2:
            found = np.sort(np.concatenate([found, found + step / 2]))
        elif kind == 3:
            found = found + step / 2
        elif kind == 4:
            found = found[dice.random(len(found)) < 0.7]
        elif kind == 5:
            found = dice.uniform(0, 40, 30)
        elif kind == 6:
            found = found[:2] + 6
        elif kind == 7 and case > 20:
            found = found[:0]
        reference, found = np.round(np.sort(np.abs(reference)), 4), np.round(np.sort(np.abs(found)), 4)
        scores = mir_eval.beat.evaluate(reference, found)
        cases.append({"reference": reference.tolist(), "estimate": found.tolist(),
                      "scores": {name: finite(value) for name, value in scores.items()}})
    return cases


LABELS = ["N", "X", "C", "G:maj", "A:min", "D:7", "E:min7", "F:maj7", "Bb:maj6", "F#:min6", "Ab:dim", "B:hdim7", "C#:dim7",
          "Eb:aug", "G:sus4", "A:sus2", "D:9", "E:min9", "F:maj9", "G:11", "A:min11", "C:13", "D:min13", "E:maj13", "G:5", "B:1",
          "A:minmaj7", "C:maj/3", "C:maj/2", "G:7/b7", "A:min/b3", "D:(1,5)", "C:maj(9)", "E:7(b9)", "F:maj(*3)", "G:min7(4)",
          "Cb:maj", "Fbb:min", "A##:7", "D:maj/#4", "C:maj(*1)", "E:min(*5,b6)/5", "A:(3)/3", "G:maj(11)", "C:7(b13)"]
COMPARISONS = ["root", "thirds", "thirds_inv", "triads", "triads_inv", "tetrads", "tetrads_inv", "mirex", "majmin", "majmin_inv",
               "sevenths", "sevenths_inv"]


def encodings():
    cases = []
    for label in LABELS:
        for reduce in (False, True):
            root, semitones, bass = mir_eval.chord.encode(label, reduce_extended_chords=reduce)
            cases.append({"label": label, "reduce": reduce, "root": int(root), "semitones": [int(s) for s in semitones],
                          "bass": int(bass)})
    return cases


def comparisons():
    pairs = [(str(a), str(b)) for a, b in dice.choice(LABELS, (120, 2))] + [(label, label) for label in LABELS]
    reference, found = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    values = {name: getattr(mir_eval.chord, name)(reference, found).tolist() for name in COMPARISONS}
    return {"reference": reference, "estimate": found, "values": values}


def spans(count, start, labels):
    cuts = np.round(start + np.cumsum(np.concatenate([[0], dice.uniform(0.3, 6, count)])), 3)
    return np.column_stack([cuts[:-1], cuts[1:]]), [str(label) for label in dice.choice(labels, count)]


def chords():
    cases = []
    for case in range(25):
        truth, names = spans(dice.integers(1, 30), dice.choice([0.0, 0.5]), LABELS[:30])
        found, found_names = spans(dice.integers(1, 30), dice.choice([0.0, 1.5]), LABELS[:30])
        if case % 3 == 0:
            found, found_names = truth.copy(), list(names)
            found_names[len(names) // 2] = "N"
        scores = mir_eval.chord.evaluate(truth, list(names), found, list(found_names))
        cases.append({"reference": [truth.tolist(), names], "estimate": [found.tolist(), found_names],
                      "scores": {name: finite(value) for name, value in scores.items()}})
    return cases


def segments():
    cases = []
    for case in range(25):
        truth, names = spans(dice.integers(1, 12), dice.choice([0.0, 0.7]), ["intro", "verse", "chorus", "outro"])
        found, found_names = spans(dice.integers(1, 12), dice.choice([0.0, 2.0]), ["a", "b", "c"])
        if case % 4 == 0:
            found, found_names = truth + np.array([0.0, 0.0]), list(names)
        truth, found = truth * 3, found * 3
        scores = mir_eval.segment.evaluate(truth, list(names), found, list(found_names))
        cases.append({"reference": [truth.tolist(), names], "estimate": [found.tolist(), found_names],
                      "scores": {name: finite(value) for name, value in scores.items()}})
    return cases


def rankings():
    cases = []
    for case in range(20):
        n = int(dice.integers(2, 200))
        scores = np.round(dice.normal(size=n), dice.choice([1, 6]))
        positive = dice.random(n) < dice.uniform(0.05, 0.9)
        positive[0] = True
        area = sklearn.metrics.roc_auc_score(positive, scores) if 0 < positive.sum() < n else float("nan")
        cases.append({"scores": scores.tolist(), "positive": positive.tolist(),
                      "average_precision": float(sklearn.metrics.average_precision_score(positive, scores)), "roc_auc": finite(area)})
    return cases


def grades():
    cases = []
    for _ in range(15):
        n = int(dice.integers(3, 120))
        truth = dice.integers(0, 11, n)
        found = np.clip(truth + dice.integers(-3, 4, n), 0, 10)
        errors = [np.mean((found[truth == g] - g) ** 2.0) for g in np.unique(truth)]
        cases.append({"truth": truth.tolist(), "found": found.tolist(), "macro_mse": float(np.mean(errors)),
                      "balanced_accuracy": float(sklearn.metrics.balanced_accuracy_score(truth, found)),
                      "kendall_tau_b": finite(scipy.stats.kendalltau(truth, found).statistic)})
    return cases


def clusterings():
    """Labels of the same frames on two sides; the first cases leave nothing or everything to know."""
    alone, same = list(range(6)), [0] * 6
    pairs = [(same, same), (same, alone), (alone, same), (alone, alone), ([0], [0]), ([0, 1], [0, 1]), ([0, 1], [0, 0]),
             ([0, 0, 1, 1], [1, 1, 0, 0]), ([0, 0, 1, 1], [0, 1, 0, 1])]
    for _ in range(20):
        n = int(dice.integers(2, 1500))
        truth = np.sort(dice.integers(0, dice.integers(1, 9), n))
        found = np.where(dice.random(n) < dice.uniform(0, 1), truth, dice.integers(0, dice.integers(1, 9), n))
        pairs.append((truth.tolist(), found.tolist()))
    score = sklearn.metrics.adjusted_mutual_info_score
    return [{"truth": truth, "found": found, "mean": finite(score(truth, found)),
             "maximum": finite(score(truth, found, average_method="max"))} for truth, found in pairs]


golden = {"versions": {"mir_eval": mir_eval.__version__, "scikit-learn": sklearn.__version__, "scipy": scipy.__version__},
          "beats": beats(), "encodings": encodings(), "comparisons": comparisons(), "chords": chords(), "segments": segments(),
          "rankings": rankings(), "grades": grades(), "clusterings": clusterings()}
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(golden, file, separators=(",", ":"))
    file.write("\n")
