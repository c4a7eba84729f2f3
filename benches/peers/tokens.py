"""Files to tokens in parquet: omar-flow against librosa, the published package's modules and pyarrow.

    cargo build --release
    taskset -c 0 python benches/peers/tokens.py [--rounds 3] [--corpus examples/audio]

Both decode every file to mono at 24 kHz, cut it into crops of 30 s, compute mel, constant-Q and waveform patches at
25 Hz, quantise each with one codebook of 8192 x 16, and write the tokens as parquet. One core, in turn, processor time,
without Python's imports but with the start of our program.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import tempfile
import warnings

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
warnings.filterwarnings("ignore")

import librosa  # noqa: E402
import numpy  # noqa: E402
import pyarrow  # noqa: E402
import pyarrow.parquet  # noqa: E402
import torch  # noqa: E402
from omar_rq import nets  # noqa: E402
from omar_rq.modules.codebooks import RandomProjectionQuantizer  # noqa: E402

import timing  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/release/omar-flow"
SAMPLE_RATE, SAMPLES, POSITIONS = 24_000, 720_000, 750
GRAPH = """
omar: 1
name: peer
nodes:
  tracks: {{stage: files, params: {{root: "{corpus}"}}}}
  audio:  {{stage: decode, from: tracks, on_error: drop}}
  mono:   {{stage: resample, from: audio, params: {{sample_rate: 24000}}}}
  crops:  {{stage: crop, from: mono, params: {{duration: 30s, policy: grid, min_duration: 1s}}}}
  views:  {{stage: features, from: crops, params: {{views: {{mel: {{}}, cqt: {{}}, waveform: {{}}}}}}}}
  tokens: {{stage: tokenize, from: views, params: {{quantizer: {{random_projection: {{codebook_size: 8192}}}}, patch_rate: 25}}, cache: "{cache}"}}
"""


class Peer:
    """The same work in Python."""

    def __init__(self, files: list, out: pathlib.Path):
        self.files, self.out = files, out
        self.mel = nets.MelSpectrogram(
            sr=SAMPLE_RATE, win_len=512, hop_len=320, power=2, n_mel=96, stretch_factor=1.0, freq_mask_param=0,
            time_mask_param=0, norm="slaney", mel_scale="slaney", norm_mean=1.86, norm_std=1.22, patch_size=(96, 3),
        ).eval()  # fmt: skip
        self.cqt = nets.CQT(
            sr=SAMPLE_RATE, hop_len=320, power=2, bins_per_octave=24, n_bins=188, f_min=32.703, magnitude=True,
            logC=True, norm_mean=5.18, norm_std=1.93, patch_size=(188, 3),
        ).eval()  # fmt: skip
        sizes = {"mel": 288, "cqt": 564, "waveform": 960}
        self.quantizers = {view: RandomProjectionQuantizer(size, 16, 8192, seed=0) for view, size in sizes.items()}

    def tokens(self, crop: torch.Tensor) -> dict:
        def patches(view: torch.Tensor) -> torch.Tensor:
            bins = view.shape[-2]
            cut = view.reshape(bins, -1)[:, : 3 * POSITIONS].reshape(bins, POSITIONS, 3)
            return cut.permute(1, 0, 2).reshape(1, POSITIONS, 3 * bins)

        views = {
            "mel": patches(self.mel(crop)),
            "cqt": patches(self.cqt(crop)),
            "waveform": (crop / 0.19).reshape(1, POSITIONS, 960),
        }
        return {name: self.quantizers[name](view).to(torch.int32).numpy().reshape(-1) for name, view in views.items()}

    def __call__(self) -> None:
        columns = {"path": [], "mel": [], "cqt": [], "waveform": []}
        for path in self.files:
            samples, _ = librosa.load(path, sr=SAMPLE_RATE, mono=True)
            for start in range(0, len(samples), SAMPLES):
                crop = numpy.zeros(SAMPLES, dtype=numpy.float32)
                part = samples[start : start + SAMPLES]
                crop[: len(part)] = part
                columns["path"].append(str(path))
                for name, tokens in self.tokens(torch.from_numpy(crop)[None]).items():
                    columns[name].append(tokens.astype(numpy.uint16))
        pyarrow.parquet.write_table(pyarrow.table(columns), self.out, compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM, help="omar-flow, built in release mode")
    parser.add_argument("--corpus", type=pathlib.Path, default=ROOT / "examples/audio")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # What librosa can read, so that both do the same work.
    known = {".flac", ".mp3", ".ogg", ".wav"}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus = folder / "corpus"
        corpus.mkdir()
        files = sorted(path for path in options.corpus.glob("*") if path.suffix in known)
        for path in files:
            shutil.copy(path, corpus)
        (folder / "graph.yaml").write_text(GRAPH.format(corpus=corpus, cache=folder / "cache"))

        def omar_flow() -> None:
            command = [options.program, "run", "graph.yaml", "--threads", "1"]
            subprocess.run(["rm", "-rf", "cache", "runs"], cwd=folder, check=True)
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

        contestants = {"omar-flow": omar_flow, "librosa + published + pyarrow": Peer(files, folder / "peer.parquet")}
        with torch.inference_mode():
            times = timing.alternate(contestants, options.rounds, warm_up=1)
    seconds = sum(librosa.get_duration(path=path) for path in files)
    print(f"{len(files)} files, {seconds / 60:.1f} minutes")
    print(f"{'who':32}{'median s':>10}{'x real time':>14}{'times ours':>12}")
    for who, (median, _) in times.items():
        ratio = median / times["omar-flow"].median
        print(f"{who:32}{median / 1e3:10.2f}{seconds / (median / 1e3):14.0f}{ratio:12.1f}")


if __name__ == "__main__":
    main()
