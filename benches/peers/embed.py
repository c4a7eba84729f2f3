"""Embedding extraction against PyTorch: an encoder of the published `base` size, 30 s crops, one core, processor time.

    cargo build --release --workspace --example bench_embed
    taskset -c 0 python benches/peers/embed.py target/release/examples/bench_embed [ROUNDS]

The encoder is written here as a plain nn.Module with `scaled_dot_product_attention`, saved with `torch.save` beside a
`config.gin`, and imported by the contestant, so both have the same random weights. Contestants alternate; the numbers are
medians of milliseconds per crop, from patches to the outputs of all layers. Also prints the largest difference of the
last layer. The audio front end (a few milliseconds of mel) is left out on both sides.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy
import torch
from torch import nn
from torch.nn import functional

import timing
from serving import Encoding, Serving

LAYERS, DIM, HEADS, KERNEL = 12, 512, 8, 31
PATCH, POSITIONS = 96 * 4, 469
ALPHA, RESIDUAL = 2.21, 4.0

CONFIG = f"""
build_module.representation = @nets.melspectrogram.MelSpectrogram
build_module.net = @nets.conformer.Conformer
nets.melspectrogram.MelSpectrogram.sr = 16000
nets.melspectrogram.MelSpectrogram.hop_len = 256
nets.melspectrogram.MelSpectrogram.norm_std = 1.268292820667291
nets.melspectrogram.MelSpectrogram.norm_mean = 2.06755686098554
nets.conformer.Conformer.embed_dim = {DIM}
nets.conformer.Conformer.depth = {LAYERS}
nets.conformer.Conformer.num_heads = {HEADS}
nets.conformer.Conformer.alpha_deepnorm = {ALPHA}
nets.conformer.Conformer.beta_deepnorm = 0.0026
nets.conformer.Conformer.mlp_residual_factor = {RESIDUAL}
nets.conformer.Conformer.patch_size = (96, 4)
"""


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(
            nn.LayerNorm(DIM, eps=6.1e-5), nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Dropout(0.2),
            nn.Linear(4 * DIM, DIM), nn.Dropout(0.2),
        )

    def forward(self, x):
        return self.module(x)


class Rotary(nn.Module):
    """Interleaved pairs rotated by position, theta 10000."""

    def __init__(self, width: int):
        super().__init__()
        self.freqs = nn.Parameter(10_000 ** -(torch.arange(0, width, 2).float() / width), requires_grad=False)

    def forward(self, x):
        angles = torch.arange(x.shape[2]).float()[:, None] * self.freqs
        cos, sin = angles.cos(), angles.sin()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.proj = nn.Linear(DIM, DIM)
        self.rotary_emb = Rotary(DIM // HEADS)

    def forward(self, x):
        batch, positions, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, positions, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(self.rotary_emb(q), self.rotary_emb(k), v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, positions, DIM))


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_norm = nn.LayerNorm(DIM, eps=6.1e-5)
        self.module = nn.Sequential(
            nn.Conv1d(DIM, 2 * DIM, 1), nn.GLU(1), nn.Conv1d(DIM, DIM, KERNEL, padding="same", groups=DIM),
            nn.BatchNorm1d(DIM, eps=6.1e-5), nn.GELU(), nn.Conv1d(DIM, DIM, 1), nn.Dropout(0.2),
        )

    def forward(self, x):
        return self.module(self.layer_norm(x).transpose(1, 2)).transpose(1, 2)


class DeepNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_norm = nn.LayerNorm(DIM)

    def forward(self, x, y):
        return self.layer_norm(ALPHA * x + y)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ff1, self.attention, self.conv_block, self.ff2 = FeedForward(), Attention(), Convolution(), FeedForward()
        self.norm1, self.norm2 = DeepNorm(), nn.LayerNorm(DIM)

    def forward(self, x):
        x = x + RESIDUAL * self.ff1(x)
        x = self.norm1(x, self.attention(x))
        x = x + self.conv_block(x)
        return self.norm2(x + RESIDUAL * self.ff2(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding_layer, self.net = nn.Linear(PATCH, DIM), Net()

    def forward(self, patches):
        x, hidden = self.embedding_layer(patches), []
        for layer in self.net.layers:
            x = layer(x)
            hidden.append(x)
        return hidden


def theirs(encoder: nn.Module, patches: torch.Tensor, batch: int) -> float:
    start = time.process_time()
    encoder(patches.expand(batch, -1, -1).contiguous())
    return (time.process_time() - start) * 1e3 / batch


def main(binary: str, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        encoder = Encoder().eval()
        (folder / "config.gin").write_text(CONFIG)
        torch.save(dict(encoder.state_dict()), folder / "model.ckpt")
        patches = torch.randn(1, POSITIONS, PATCH)
        patches.numpy().astype("<f4").tofile(folder / "in.f32")
        ours = Encoding(Serving(binary, folder), folder, POSITIONS)
        print(f"imported {ours.serving.what}", flush=True)
        ours.run(1)
        expected = encoder(patches)[-1][0].numpy()
        error = numpy.abs(ours.output().reshape(POSITIONS, DIM) - expected).max() / numpy.abs(expected).max()
        print(f"largest difference {error:.1e} of the largest value", flush=True)
        for batch in (1, 4):
            contestants = {"ours": lambda: ours.run(batch), "pytorch": lambda: theirs(encoder, patches, batch)}
            times = timing.alternate(contestants, rounds, warm_up=1)
            ours_ms, theirs_ms = (one.median for one in times.values())
            best = {contestant: f"{one.best:.0f}" for contestant, one in times.items()}
            print(
                f"batch {batch}: {ours_ms:.0f} ms per 30 s crop, PyTorch {theirs_ms:.0f} ms "
                f"({theirs_ms / ours_ms:.2f} x); best {best}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
