"""Does the pipeline hide behind the training step? The trainer fed by the dataflow against a loop over tensors in memory.

    cargo build --release --workspace --bins --examples
    python3 benches/scale/trainer.py [--rounds 5] [--steps 20] [--threads 2]

The same model, shapes, dropout, head and optimiser: 4 layers of width 256, 750 positions (48 s of mel at 15.6 Hz), 4 crops a
step, 7776 codes. `bench_train serve` takes one minibatch again and again; `omar-flow run` takes crops of examples/audio,
from caches of features and tokens, and from the recordings, which are decoded again in every pass. Contestants run in turn;
medians over rounds of the median wall time of a step, and of the processor time of all threads per step, what a program
takes before its queues are full and after its steps left out by the difference of a long run and a short one.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import ROOT

sys.path.insert(0, str(ROOT / "benches" / "peers"))
from serving import Serving  # noqa: E402

GRAPH = """omar: 1
name: trainer
seed: 7
nodes:
  tracks: {{stage: files, params: {{root: {audio}}}}}
  audio:  {{stage: decode, from: tracks, on_error: drop}}
  mono:   {{stage: resample, from: audio, params: {{sample_rate: 16000}}}}
  crops:  {{stage: crop, from: mono, params: {{duration: 48s, policy: grid, min_duration: 24s}}}}
  mel:    {{stage: features, from: crops, params: {{views: {{mel: {{}}}}}}{mel}}}
  tokens:
    stage: tokenize
    from: mel
    params: {{quantizer: {{finite_scalar: {{levels: [6, 6, 6, 6, 6]}}}}, patch_rate: 15.625}}{tokens}
  model:
    stage: pretrain
    from: {{input: mel, targets: tokens}}
    params:
      model: {{layers: 4, dim: 256, heads: 4, dropout: 0.2}}
      minibatch: 4
      steps: 1
      mask: {{span: 640ms}}
      optimizer: {{lr: 1.0e-4, warmup: 0, schedule: constant}}
      shuffle_buffer: 16
      log_every: 1
      valid: {{every: 1000000, crops: 1}}
      checkpoint: {{every: 1000000, best: false}}
"""
# Steps before the measured ones: the pipeline reads ahead until its queues are full.
SHORT = 12


def graph(cached):
    caches = [f", cache: cache/{name}" for name in ("mel", "tokens")] if cached else ["", ""]
    tokens = f"\n    {caches[1][2:]}" if cached else ""
    return GRAPH.format(audio=ROOT / "examples" / "audio", mel=caches[0], tokens=tokens)


def spent():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) * 1e3


class Fed:
    """The trainer at the end of a graph."""

    def __init__(self, program, folder, name, cached, threads):
        self.program, self.folder, self.name, self.threads, self.runs = program, folder, name, threads, 0
        (folder / f"{name}.yaml").write_text(graph(cached))
        if cached:
            self.call("run", f"{name}.yaml", "--until", "tokens")

    def call(self, *words):
        return subprocess.run([self.program, *words], cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def train(self, steps):
        """Milliseconds after every step, and processor time of all of it."""
        self.runs += 1
        run, before = f"runs/{self.name}-{self.runs}", spent()
        changes = ("--set", f"nodes.model.params.steps={steps}", "--threads", str(self.threads))
        self.call("run", f"{self.name}.yaml", "--run-folder", run, *changes)
        cpu = spent() - before
        parts = sorted((self.folder / run / "model" / "results").glob("*.parquet"))
        rows = []
        for part in parts:
            rows += json.loads(self.call("inspect", str(part), "--head", str(steps), "--json"))["rows"]["head"]
        return [1e3 * row["elapsed_s"] for row in rows if row["split"] == "train"], cpu

    def measure(self, steps):
        times, long = self.train(steps + SHORT)
        _, short = self.train(SHORT)
        walls = [after - before for before, after in zip(times[SHORT - 1 :], times[SHORT:])]
        return statistics.median(walls), (long - short) / steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, default=ROOT / "target" / "release")
    for name, default in (("rounds", 5), ("steps", 20), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        loop = Serving(args.release / "examples" / "bench_train", "serve", greets=False)

        def in_memory(steps):
            walls, cpus = zip(*(loop.ask()[:2] for _ in range(steps)))
            return statistics.median(walls), statistics.fmean(cpus)

        program = (args.release / "omar-flow").resolve()
        fed = [Fed(program, Path(folder), name, name == "cached", args.threads) for name in ("cached", "recordings")]
        contestants = {"loop over tensors": in_memory, "from caches": fed[0].measure, "from recordings": fed[1].measure}
        in_memory(SHORT)
        times = {name: [] for name in contestants}
        for turn in range(args.rounds):
            for name, measure in contestants.items():
                times[name].append(measure(args.steps))
                wall, cpu = times[name][-1]
                print(f"round {turn + 1}: {name:17} {wall:6.0f} ms a step, {cpu:6.0f} ms of processor time", flush=True)
    walls, cpus = ({name: statistics.median(one[i] for one in all_) for name, all_ in times.items()} for i in (0, 1))
    first = "loop over tensors"
    for name in contestants:
        print(
            f"{name:17} wall {walls[name]:6.0f} ms, processor {cpus[name]:6.0f} ms; "
            f"{walls[first] / walls[name]:.3f} times the speed of the loop, {cpus[name] / cpus[first]:.3f} times its work"
        )


if __name__ == "__main__":
    main()
