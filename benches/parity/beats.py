#!/usr/bin/env python3
"""Writes tests/golden/beats.json: the beats and bars that madmom decodes from activations drawn here.

    pip install 'numpy<1.24' 'cython<3' 'scipy<1.11' mido 'setuptools<66' wheel   # Python 3.9
    pip install --no-build-isolation madmom==0.16.1
    python3 benches/parity/beats.py tests/golden/beats.json

Nothing of madmom's own data is used: activations come from random numbers, and what is written are numbers.
"""

import json
import sys
import warnings

import numpy as np

warnings.simplefilter("ignore")

from madmom.features.beats import DBNBeatTrackingProcessor  # noqa: E402
from madmom.features.downbeats import DBNDownBeatTrackingProcessor  # noqa: E402

dice = np.random.default_rng(20261123)


def pulses(frames, fps, meter):
    """Probabilities of other beats and of downbeats: a drifting pulse, noise, frames that were missed."""
    others, downs = dice.uniform(0.001, 0.06, frames), dice.uniform(0.001, 0.03, frames)
    time, place = dice.uniform(0, 0.4), int(dice.integers(0, meter))
    step = dice.uniform(0.32, 0.9)
    while time * fps < frames - 1:
        frame = int(round(time * fps))
        if dice.random() < 0.9:
            strength = dice.uniform(0.3, 0.9)
            first = place == 0 if dice.random() < 0.9 else dice.random() < 0.5
            (downs if first else others)[frame] = strength
            if frame + 1 < frames and fps > 40:
                (downs if first else others)[frame + 1] = strength * dice.uniform(0.2, 0.9)
        place = (place + 1) % meter
        step *= float(np.exp(dice.normal(0, 0.01)))
        time += step
    return np.round(others, 3), np.round(downs, 3)


beats, bars = [], []
for fps in (15.625, 18.75, 25, 50, 100):
    for case in range(6):
        frames = int(fps * dice.uniform(3, 6))
        others, downs = pulses(frames, fps, [3, 4][case % 2])
        if case == 4:
            others, downs = np.round(dice.uniform(0, 0.5, frames), 3), np.round(dice.uniform(0, 0.4, frames), 3)
        if case == 5:
            # Silence around it, which the threshold cuts away.
            edge = int(0.7 * fps)
            others[:edge] = downs[:edge] = others[-edge:] = downs[-edge:] = 0.004
        both = np.round(others + downs, 3)
        beat = DBNBeatTrackingProcessor(fps=fps)
        _, likelihood = beat.hmm.viterbi(both)
        plain = DBNBeatTrackingProcessor(fps=fps, correct=False)
        beats.append({"fps": fps, "activations": both.tolist(), "likelihood": float(likelihood),
                      "beats": beat(both).tolist(), "uncorrected": plain(both).tolist()})
        activations = np.column_stack([others, downs])
        found = {}
        for name, meters in (("3 or 4", [3, 4]), ("2", [2]), ("5", [5])):
            decoder = DBNDownBeatTrackingProcessor(beats_per_bar=meters, fps=fps)
            found[name] = decoder(activations).tolist()
        bars.append({"fps": fps, "others": others.tolist(), "downbeats": downs.tolist(), "bars": found})

with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump({"versions": {"madmom": "0.16.1"}, "beats": beats, "bars": bars}, file, separators=(",", ":"))
    file.write("\n")
