"""Two processes pinned to one core each against one: tokens of a folder of music, from files to a committed cache.

    cargo build --release
    python3 benches/scale/processes.py FOLDER [--tracks 60] [--repeats 3]

Runs alternate, the first pair is not counted; medians and the ratio of each pair are printed, with the processor time of
all processes, and whether the caches are equal, byte for byte. Needs two cores and `taskset`.
"""

import argparse
import hashlib
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRAPH = """omar: 1
name: scale
seed: 1
flow: {{shard_tracks: 2}}
resources: {{threads: 1}}
nodes:
  tracks: {{stage: files, params: {{root: "{corpus}"}}}}
  audio:  {{stage: decode, from: tracks}}
  mono:   {{stage: resample, from: audio, params: {{sample_rate: 24000}}}}
  crops:  {{stage: crop, from: mono, params: {{duration: 30s, policy: grid}}}}
  views:  {{stage: features, from: crops, params: {{views: {{mel: {{hop_len: 320}}, cqt: {{}}}}}}}}
  tokens: {{stage: tokenize, from: views, params: {{quantizer: {{random_projection: {{codebooks: 4, codebook_size: 8192}}}}, patch_rate: 25}}, cache: cache}}
"""


def run(program, corpus, tracks, processes):
    """Seconds of wall and processor time, and a hash of the cache."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "graph.yaml").write_text(GRAPH.format(corpus=corpus))
        ports = [f"127.0.0.1:{20000 + (os.getpid() * 7 + i) % 20000}" for i in range(processes)]
        Path(folder, "hosts.txt").write_text("\n".join(ports))
        command = [program, "run", "graph.yaml", "--limit", str(tracks)]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        cluster = lambda i: ["--cluster", "hosts.txt", "--process", str(i)] if processes > 1 else []
        pinned = lambda i: subprocess.Popen(
            ["taskset", "-c", str(i), *command, *cluster(i)],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "RAYON_NUM_THREADS": "1"})
        for process in [pinned(i) for i in range(processes)]:
            _, stderr = process.communicate()
            if process.returncode:
                raise SystemExit(stderr.decode())
        wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        files = sorted(Path(folder, "cache").rglob("*.parquet"))
        digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return wall, busy, digest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tracks", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--program", default=str(ROOT / "target/release/omar-flow"))
    options = parser.parse_args()
    pairs = []
    for repeat in range(options.repeats + 1):
        order = (1, 2) if repeat % 2 else (2, 1)
        results = {n: run(options.program, options.corpus.resolve(), options.tracks, n) for n in order}
        assert results[1][2] == results[2][2], "the caches differ"
        if repeat:
            pairs.append(results)
    for n in (1, 2):
        wall = statistics.median(pair[n][0] for pair in pairs)
        busy = statistics.median(pair[n][1] for pair in pairs)
        print(f"{n} process(es): {wall:7.2f} s, {busy:7.2f} s of processor time")
    ratios = sorted(pair[1][0] / pair[2][0] for pair in pairs)
    print(f"two are {statistics.median(ratios):.2f} times as fast as one ({ratios[0]:.2f} to {ratios[-1]:.2f}); equal caches")


if __name__ == "__main__":
    main()
