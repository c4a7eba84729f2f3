"""Random projection of the patches of a 30 s crop: omar-flow against the published package.

    cargo build --release -p omar-stages --example bench_features
    taskset -c 0 python benches/peers/quantizers.py [--rounds 9]

750 patches of mel (288 values), constant-Q (564) and waveform (960); 1, 4 and 16 codebooks of 8192 x 16, projection
included on both sides. One core, in turn, processor time. The published package is called as it is installed, through
its public class.
"""

import argparse
import os
import pathlib
import subprocess
import warnings

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402

import timing  # noqa: E402

VIEWS = {"mel 512/320/96": 288, "cqt 320/188": 564, "waveform": 960}
CODEBOOKS = (1, 4, 16)
POSITIONS, SIZE, DIM = 750, 8192, 16
PROGRAM = pathlib.Path(__file__).parents[2] / "target/release/examples/bench_features"


def ours(program: pathlib.Path) -> dict:
    """Processor time of every quantizer, as the program prints it: milliseconds per crop by view and codebooks."""
    lines = subprocess.run([program, "12"], check=True, capture_output=True, text=True).stdout.splitlines()
    times = {}
    for view in VIEWS:
        for codebooks in CODEBOOKS:
            line = next(line for line in lines if line.startswith(f"{view}, {codebooks} x {SIZE} x {DIM}"))
            times[(view, codebooks)] = float(line.split()[-2])
    return times


def published() -> dict:
    from omar_rq.modules.codebooks import RandomProjectionQuantizer

    contestants = {}
    for view, input_dim in VIEWS.items():
        patches = torch.randn(1, POSITIONS, input_dim)
        for codebooks in CODEBOOKS:
            quantizers = [RandomProjectionQuantizer(input_dim, DIM, SIZE, seed=seed) for seed in range(codebooks)]
            contestants[(view, codebooks)] = lambda all=quantizers, x=patches: [one(x) for one in all]
    return contestants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM, help="our benchmark, built in release mode")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = []
    contestants = {"omar-flow": lambda: measured.append(ours(options.program))}
    contestants |= published()
    with torch.inference_mode():
        times = timing.alternate(contestants, options.rounds, warm_up=1)
    print(f"{'patches':16}{'codebooks':>10}{'omar-flow ms':>14}{'published ms':>14}{'ratio':>8}")
    for key in [(view, codebooks) for view in VIEWS for codebooks in CODEBOOKS]:
        mine = sorted(turn[key] for turn in measured)[len(measured) // 2]
        theirs = times[key].median
        print(f"{key[0]:16}{key[1]:>10}{mine:14.2f}{theirs:14.1f}{theirs / mine:8.1f}")


if __name__ == "__main__":
    main()
