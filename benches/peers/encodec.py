"""The EnCodec encoder against transformers' on PyTorch: the same random weights, one core, processor time.

    cargo build --release -p omar-stages --example bench_encodec
    pip install torch transformers
    taskset -c 0 python benches/peers/encodec.py target/release/examples/bench_encodec [ROUNDS]

Contestants alternate; the medians are milliseconds of processor time per 30 s crop. PyTorch runs as users run it (weight
norm in place) and, for the second ratio, with weight norm folded. Also prints the largest difference of the outputs.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from transformers import EncodecConfig, EncodecModel

import timing
from serving import Encoding, Serving

SAMPLES = 720_000


def theirs(encoder: torch.nn.Module, audio: torch.Tensor, batch: int) -> float:
    start = time.process_time()
    encoder(audio.expand(batch, 1, -1).contiguous())
    return (time.process_time() - start) * 1e3 / batch


def main(binary: str, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        model = EncodecModel(EncodecConfig()).eval()
        model.save_pretrained(folder)
        audio = torch.rand(SAMPLES) - 0.5
        audio.numpy().astype("<f4").tofile(folder / "in.f32")
        ours = Encoding(Serving(binary, "serve", folder, greets=False), folder)
        ours.run(1)
        expected = model.encoder(audio.reshape(1, 1, -1))[0].T.flatten().numpy()
        error = numpy.abs(ours.output() - expected).max()
        print(f"largest difference {error:.1e}, largest value {numpy.abs(expected).max():.2f}", flush=True)
        folded = EncodecModel(EncodecConfig()).eval()
        folded.load_state_dict(model.state_dict())
        for layer in folded.encoder.modules():
            if hasattr(layer, "parametrizations"):
                torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
        for batch in (1, 4):
            contestants = {
                "ours": lambda: ours.run(batch),
                "transformers": lambda: theirs(model.encoder, audio, batch),
                "folded": lambda: theirs(folded.encoder, audio, batch),
            }
            times = timing.alternate(contestants, rounds, warm_up=1)
            ours_ms, theirs_ms, folded_ms = (one.median for one in times.values())
            best = {contestant: f"{one.best:.0f}" for contestant, one in times.items()}
            print(
                f"batch {batch}: {ours_ms:.0f} ms, transformers {theirs_ms:.0f} ms ({theirs_ms / ours_ms:.2f} x), "
                f"weight norm folded {folded_ms:.0f} ms ({folded_ms / ours_ms:.2f} x); best {best}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
