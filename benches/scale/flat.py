"""Is memory flat in the number of recordings, what does a restart cost, and what does the dataflow cost over a plain loop?

    cargo build --release
    python3 benches/scale/flat.py [--tracks 20000]

Synthetic recordings of one second, below a temporary folder (16 kB each).
"""

import argparse
import array
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
import wave
from pathlib import Path

from processes import ROOT

GRAPH = """omar: 1
name: flat
seed: 7
resources: {threads: 1}
nodes:
  tracks: {stage: files, params: {root: audio}}
  audio:  {stage: decode, from: tracks}
  mono:   {stage: resample, from: audio, params: {sample_rate: 16000}}
  crops:  {stage: crop, from: mono, params: {duration: 1s, policy: grid}}
  mel:    {stage: features, from: crops, params: {views: {mel: {}}}}
  tokens: {stage: tokenize, from: mel, params: {quantizer: {random_projection: {codebooks: 2, codebook_size: 1024}}, patch_rate: 15.625}, cache: cache}
"""


def write_recordings(folder, count):
    random.seed(1)
    noise = array.array("h", [random.randint(-8000, 8000) for _ in range(16000)])
    for track in range(count):
        path = folder / f"{track % 100:02d}" / f"{track:06d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        start = random.randint(0, 7999)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(noise[start : start + 8000].tobytes())


def run(program, folder, *more):
    """Wall and processor seconds, and megabytes at most."""
    command = ["/usr/bin/env", "python3", "-c",
               "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, "
               "stderr=subprocess.DEVNULL).returncode; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
               "sys.exit(code)", program, "run", "graph.yaml", *more]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, int(done.stdout) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracks", type=int, default=20_000)
    parser.add_argument("--program", default=str(ROOT / "target/release/omar-flow"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "graph.yaml").write_text(GRAPH)
        write_recordings(folder / "audio", options.tracks)
        for count in (options.tracks // 100, options.tracks // 10, options.tracks):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            limit = [] if count == options.tracks else ["--limit", str(count)]
            wall, _, memory = run(options.program, folder, *limit)
            print(f"{count:>8} recordings: {wall:6.2f} s, {memory:5.0f} MB at most")
        wall, _, memory = run(options.program, folder)
        print(f"{'all cached':>19}: {wall:6.2f} s, {memory:5.0f} MB at most")
        ratios = []
        for repeat in range(4):
            times = {}
            for more in ([], ["--direct"]) if repeat % 2 else (["--direct"], []):
                shutil.rmtree(folder / "cache", ignore_errors=True)
                times[bool(more)] = run(options.program, folder, "--limit", str(options.tracks // 4), *more)[1]
            if repeat:
                ratios.append(times[False] / times[True])
        print(f"processor time of the dataflow over that of the loop: {statistics.median(ratios):.3f} "
              f"({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
