"""How fast do files become mono at 24 kHz: omar-flow, librosa and ffmpeg, one core, processor time.

    cargo build --release -p omar-stages --example bench_decode
    python benches/peers/decode.py [--rounds 5] [--seconds 300] [--core 0] [FILE ...]

Without FILE it joins the recordings of examples/audio to one of `--seconds` and encodes that with ffmpeg as MP3, Ogg
Vorbis, FLAC, AAC and Opus. What is timed, including the start of each process but not Python's imports:

    omar-flow   decode, mean of the channels, FFT resampler (all of it in blocks)
    librosa     librosa.load(path, sr=24000, mono=True)
    ffmpeg      ffmpeg -threads 1 -i FILE -ac 1 -ar 24000 -f f32le -

Rounds alternate between the programs; the table holds medians of seconds of audio per second of processor time.
Needs ffmpeg, and librosa for its column.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timing

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BENCH = TARGET / "release/examples/bench_decode"
ENCODERS = {
    "mp3": ["-c:a", "libmp3lame", "-b:a", "192k"],
    "ogg": ["-c:a", "libvorbis", "-q:a", "5"],
    "flac": ["-c:a", "flac"],
    "m4a": ["-c:a", "aac", "-b:a", "192k"],
    "opus": ["-c:a", "libopus", "-b:a", "128k"],
}


def child_seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def librosa_seconds(path):
    import librosa

    start = time.process_time()
    librosa.load(path, sr=24000, mono=True)
    return time.process_time() - start


def ffmpeg_seconds(path):
    return child_seconds(
        ["ffmpeg", "-v", "error", "-threads", "1", "-i", path, "-ac", "1", "-ar", "24000", "-f", "f32le", "-y", "/dev/null"]
    )


def audio_seconds(path):
    show = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", path]
    return float(subprocess.run(show, check=True, capture_output=True, text=True).stdout)


def make_files(folder, seconds):
    sources = sorted(p for p in (ROOT / "examples/audio").iterdir() if p.suffix in {".ogg", ".mp3", ".flac", ".m4a", ".wav"})
    inputs = [argument for path in sources for argument in ("-i", str(path))]
    chains = "".join(f"[{i}:a]aformat=sample_rates=44100:channel_layouts=stereo[a{i}];" for i in range(len(sources)))
    joined = chains + "".join(f"[a{i}]" for i in range(len(sources))) + f"concat=n={len(sources)}:v=0:a=1"
    wav = folder / "joined.wav"
    loop = folder / "once.wav"
    quiet = ["ffmpeg", "-v", "error", "-y"]
    subprocess.run([*quiet, *inputs, "-filter_complex", joined, loop], check=True)
    subprocess.run([*quiet, "-stream_loop", "-1", "-i", loop, "-t", str(seconds), "-c", "copy", wav], check=True)
    files = []
    for extension, encoder in ENCODERS.items():
        files.append(folder / f"joined.{extension}")
        subprocess.run([*quiet, "-i", wav, *encoder, files[-1]], check=True)
    return [str(path) for path in files]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--core", type=int, default=0)
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    if not BENCH.exists():
        sys.exit(f"{BENCH} is missing: cargo build --release -p omar-stages --example bench_decode")
    peers = {"omar-flow": lambda path: child_seconds([BENCH, path]), "ffmpeg": ffmpeg_seconds}
    try:
        import librosa  # noqa: F401

        peers["librosa"] = librosa_seconds
    except ImportError:
        print("librosa is not installed: its column is left out")
    with tempfile.TemporaryDirectory() as folder:
        files = options.files or make_files(Path(folder), options.seconds)
        print(f"{'file':28} {'seconds':>8} " + " ".join(f"{name:>10}" for name in peers), end="")
        print(" " + " ".join(f"{'/ ' + name:>10}" for name in list(peers)[1:]))
        for path in files:
            # The first call of librosa compiles and imports: the warm-up round takes it.
            contestants = {name: lambda measure=measure: measure(path) * 1e3 for name, measure in peers.items()}
            times = timing.alternate(contestants, options.rounds, warm_up=1)
            length = audio_seconds(path)
            speeds = {name: length / (median / 1e3) for name, (median, _) in times.items()}
            print(f"{Path(path).name[:28]:28} {length:8.0f} " + " ".join(f"{speed:10.0f}" for speed in speeds.values()), end="")
            ours = speeds["omar-flow"]
            print(" " + " ".join(f"{ours / speed:10.2f}" for name, speed in speeds.items() if name != "omar-flow"))


if __name__ == "__main__":
    main()
