"""What crosses the network between two processes, and what happens when it is cut. Needs root, for network namespaces.

    cargo build --release
    sudo python3 benches/scale/network.py FOLDER [--tracks 40]

Two network namespaces stand for two hosts. First two processes tokenise FOLDER, and the bytes on the wire are counted;
then they do it again with an empty cache, and the wire is cut in the middle: how long until both have ended, and what
they say.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from processes import GRAPH, ROOT

NAMES = ("omar-a", "omar-b")


def ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


def connect():
    """Two namespaces with a wire between them."""
    for name in NAMES:
        ip("netns", "del", name, check=False)
        ip("netns", "add", name)
    ip("link", "add", "omar0", "netns", NAMES[0], "type", "veth", "peer", "name", "omar0", "netns", NAMES[1])
    for host, name in enumerate(NAMES, 1):
        ip("-n", name, "addr", "add", f"10.77.0.{host}/24", "dev", "omar0")
        for device in ("omar0", "lo"):
            ip("-n", name, "link", "set", device, "up")


def on_wire():
    """Bytes in both directions, with all headers."""
    shown = subprocess.run(["ip", "-n", NAMES[0], "-s", "-j", "link", "show", "omar0"], check=True, capture_output=True)
    counters = json.loads(shown.stdout)[0]["stats64"]
    return counters["rx"]["bytes"] + counters["tx"]["bytes"]


def start(program, folder, tracks, caches):
    """Both processes, each with a cache of its own if `caches`."""
    graph = GRAPH if not caches else GRAPH.replace("cache: cache", 'cache: "${{OWN}}"')
    corpus, _ = tracks
    Path(folder, "graph.yaml").write_text(graph.format(corpus=corpus))
    Path(folder, "hosts.txt").write_text("10.77.0.1:7001\n10.77.0.2:7001\n")
    command = [program, "run", "graph.yaml", "--limit", str(tracks[1]), "--cluster", "hosts.txt", "--process"]
    return [
        subprocess.Popen(
            ["ip", "netns", "exec", name, "env", f"OWN=cache-{process}", *command, str(process)],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for process, name in enumerate(NAMES)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tracks", type=int, default=40)
    parser.add_argument("--program", default=str(ROOT / "target/release/omar-flow"))
    options = parser.parse_args()
    work = (options.corpus.resolve(), options.tracks)
    connect()
    try:
        with tempfile.TemporaryDirectory() as folder:
            before = on_wire()
            processes = start(options.program, folder, work, caches=True)
            said = [process.communicate() for process in processes]
            assert all(process.returncode == 0 for process in processes), said
            crossed = on_wire() - before
            summary = json.loads(next(Path(folder, "runs").glob("*/summary.json")).read_text())
            tokens = next(node for node in summary["nodes"] if node["node"] == "tokens")
            hours = tokens["audio_s"] / 3600
            print(f"{hours:.2f} h of audio, {tokens['rows_out']} crops, tokens {tokens['bytes_committed'] / 1e6:.2f} MB "
                  f"on disk, {tokens['bytes_out'] / 1e6:.2f} MB in memory")
            print(f"on the wire: {crossed / 1e6:.3f} MB, {crossed / 1e6 / hours:.3f} MB per hour of audio")
        with tempfile.TemporaryDirectory() as folder:
            processes = start(options.program, folder, work, caches=True)
            while len(list(Path(folder).glob("cache-*/*/_commits/*.json"))) < 2:
                time.sleep(0.01)
            ip("-n", NAMES[0], "link", "set", "omar0", "down")
            cut = time.monotonic()
            for name, process in zip(NAMES, processes):
                _, stderr = process.communicate()
                said = [line for line in stderr.splitlines() if line.startswith("error")]
                print(f"cut: {name} ended after {time.monotonic() - cut:.1f} s with {process.returncode}: {said}")
    finally:
        for name in NAMES:
            ip("netns", "del", name, check=False)


if __name__ == "__main__":
    main()
