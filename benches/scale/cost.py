"""What an hour of audio costs, per set of views, and what 330,000 hours of it would: processor time, disk, memory.

    cargo build --release
    python3 benches/scale/cost.py FOLDER [--tracks 40] [--encodec WEIGHTS]

One thread, fresh caches, median of three runs. Processor time is that of the whole process, decoding included.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
from pathlib import Path

from processes import ROOT

HOURS, TRACKS = 330_000, 6_600_000
GRAPH = """omar: 1
name: cost
seed: 1
resources: {{threads: 1}}
nodes:
  tracks: {{stage: files, params: {{root: "{corpus}"}}}}
  audio:  {{stage: decode, from: tracks}}
  mono:   {{stage: resample, from: audio, params: {{sample_rate: 24000}}}}
  crops:  {{stage: crop, from: mono, params: {{duration: 30s, policy: grid}}}}
{rest}"""
TOKENS = """  views:  {{stage: features, from: crops, params: {{views: {{{views}}}}}}}
  tokens: {{stage: tokenize, from: views, params: {{quantizer: {{random_projection: {{codebooks: 1, codebook_size: 8192}}}}, patch_rate: 25}}, cache: cache}}
"""
MEL, CQT = "mel: {hop_len: 320}", "cqt: {}"


def run(program, corpus, tracks, rest):
    """Processor seconds, and the summary."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "graph.yaml").write_text(GRAPH.format(corpus=corpus, rest=rest))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [program, "run", "graph.yaml", "--limit", str(tracks), "--json"], cwd=folder, capture_output=True,
            env={**os.environ, "RAYON_NUM_THREADS": "1"})
        if done.returncode:
            raise SystemExit(done.stderr.decode())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tracks", type=int, default=40)
    parser.add_argument("--encodec", type=Path, help="folder of EnCodec weights")
    parser.add_argument("--program", default=str(ROOT / "target/release/omar-flow"))
    options = parser.parse_args()
    sets = {"decode, resample, crop": "", "... and mel tokens": MEL, "... and CQT tokens": CQT, "... and both": f"{MEL}, {CQT}"}
    if options.encodec:
        sets["... and EnCodec tokens"] = f"encodec: {{weights: {options.encodec.resolve()}}}"
    print(f"{'':<26}{'s per hour':>12}{'x real time':>13}{'core-hours':>12}{'MB per hour':>13}{'tokens, GB':>12}")
    for name, views in sets.items():
        rest = TOKENS.format(views=views) if views else ""
        runs = [run(options.program, options.corpus.resolve(), options.tracks, rest) for _ in range(3)]
        nodes = {node["node"]: node for node in runs[0][1]["nodes"]}
        hours = nodes["crops"]["audio_s"] / 3600
        seconds = statistics.median(seconds for seconds, _ in runs) / hours
        disk = nodes["tokens"]["bytes_committed"] / 1e6 / hours if views else 0
        print(f"{name:<26}{seconds:>12.2f}{3600 / seconds:>13.0f}{seconds * HOURS / 3600:>12.0f}"
              f"{disk:>13.2f}{disk * HOURS / 1000:>12.0f}")
    print(f"\n{hours:.2f} h of audio in {runs[0][1]['tracks']} files; core-hours and tokens are for {HOURS:,} hours")


if __name__ == "__main__":
    main()
