"""Mel and constant-Q of a 30 s crop at 24 kHz: omar-flow against torchaudio, librosa and the published package.

    taskset -c 0 python benches/peers/features.py [--rounds 20]

Builds nothing: run `cargo build --release -p omar-stages --example bench_features` first. The published package is
called as it is installed, through its public classes. All run on one core, in turn; times are processor time.
"""

import argparse
import os
import pathlib
import re
import subprocess
import warnings

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
warnings.filterwarnings("ignore")

import librosa  # noqa: E402
import numpy  # noqa: E402
import torch  # noqa: E402
import torchaudio  # noqa: E402

import timing  # noqa: E402

SAMPLE_RATE, HOP, SAMPLES = 24_000, 320, 720_000
MEL_BINS, CQT_BINS, BINS_PER_OCTAVE, F_MIN = 96, 188, 24, 32.703
PROGRAM = pathlib.Path(__file__).parents[2] / "target/release/examples/bench_features"


def ours(program: pathlib.Path, view: str):
    """Times one of our views; the program reports the processor time of one crop."""

    def run() -> float:
        lines = subprocess.run([program, "25", view], check=True, capture_output=True, text=True).stdout.splitlines()
        line = next(line for line in lines if re.match(rf"{view} \S+ {{2}}", line))
        return float(line.split()[-2])

    return run


def mel_of_torchaudio(samples: torch.Tensor):
    transform = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE, n_fft=512, hop_length=HOP, n_mels=MEL_BINS, norm="slaney", mel_scale="slaney"
    )
    return lambda: (torch.log10(1 + 1e4 * transform(samples)) - 1.86) / 1.22


def cqt_of_librosa(samples: numpy.ndarray):
    def run():
        bins = librosa.cqt(
            samples, sr=SAMPLE_RATE, hop_length=HOP, fmin=F_MIN, n_bins=CQT_BINS, bins_per_octave=BINS_PER_OCTAVE
        )
        return (numpy.log10(1 + 1e4 * numpy.abs(bins) ** 2) - 5.18) / 1.93

    return run


def published(samples: torch.Tensor) -> dict:
    """Mel and constant-Q of the published package; nothing when it is not installed."""
    try:
        from omar_rq import nets
    except ImportError as error:
        print(f"without the published package: {error}")
        return {}
    mel = nets.MelSpectrogram(
        sr=SAMPLE_RATE, win_len=512, hop_len=HOP, power=2, n_mel=MEL_BINS, stretch_factor=1.0, freq_mask_param=0,
        time_mask_param=0, norm="slaney", mel_scale="slaney", norm_mean=1.86, norm_std=1.22, patch_size=(MEL_BINS, 3),
    ).eval()  # fmt: skip
    cqt = nets.CQT(
        sr=SAMPLE_RATE, hop_len=HOP, power=2, bins_per_octave=BINS_PER_OCTAVE, n_bins=CQT_BINS, f_min=F_MIN,
        magnitude=True, logC=True, norm_mean=5.18, norm_std=1.93, patch_size=(CQT_BINS, 3),
    ).eval()  # fmt: skip
    return {"mel": lambda: mel(samples), "cqt": lambda: cqt(samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM, help="our benchmark, built in release mode")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = (numpy.random.default_rng(1).random(SAMPLES, dtype=numpy.float32) - 0.5).astype(numpy.float32)
    tensor = torch.from_numpy(samples)
    contestants = {("mel", "omar-flow"): ours(options.program, "mel"), ("cqt", "omar-flow"): ours(options.program, "cqt")}
    contestants[("mel", "torchaudio")] = mel_of_torchaudio(tensor)
    contestants[("cqt", "librosa")] = cqt_of_librosa(samples)
    for view, run in published(tensor[None]).items():
        contestants[(view, "published package")] = run
    with torch.inference_mode():
        times = timing.alternate(contestants, options.rounds)
    print(f"{'view':6}{'who':20}{'median ms':>10}{'best ms':>10}{'times ours':>12}")
    for (view, who), (median, best) in sorted(times.items()):
        print(f"{view:6}{who:20}{median:10.2f}{best:10.2f}{median / times[(view, 'omar-flow')].median:12.1f}")


if __name__ == "__main__":
    main()
