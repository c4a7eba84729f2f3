"""A training step against PyTorch: the same Conformer, the same shapes, dropout and optimiser, in turn.

    cargo build --release --workspace --example bench_train
    pip install torch
    python benches/peers/train.py [--dim 256] [--layers 4] [--threads 2] [--rounds 7]

Both programs stay alive and take steps alternately. Prints medians and minima of wall time (with several threads
PyTorch's workers spin while they wait, which makes its processor time look worse than it is), processor time, and the
peak of resident memory, for PyTorch less what importing it takes.
"""

import argparse
import math
import os
import resource
import statistics
import sys
import time

from serving import Serving

parser = argparse.ArgumentParser()
parser.add_argument("--binary", default="target/release/examples/bench_train")
for name, default in (("dim", 256), ("layers", 4), ("heads", 4), ("positions", 750), ("minibatch", 4), ("codes", 7776)):
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--dropout", type=float, default=0.2)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=7)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(args.threads)

import torch  # noqa: E402 (after the number of threads)
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

IMPORT_MB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
PATCH = 384
ALPHA = (2 * args.layers) ** 0.25


def feed_forward(dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim, 6.1e-5), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(args.dropout),
        nn.Linear(4 * dim, dim), nn.Dropout(args.dropout),
    )


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, positions: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        width = dim // heads
        angles = torch.outer(torch.arange(positions), 1e4 ** (-torch.arange(0, width, 2) / width))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack((even * self.cos - odd * self.sin, odd * self.cos + even * self.sin), -1).flatten(-2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, positions, dim = x.shape
        q, k, v = self.qkv(x).view(batch, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        drop = args.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, dropout_p=drop, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, positions, dim))


class Convolution(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim, 6.1e-5)
        self.module = nn.Sequential(
            nn.Conv1d(dim, 2 * dim, 1), nn.GLU(1), nn.Conv1d(dim, dim, 31, padding="same", groups=dim),
            nn.BatchNorm1d(dim, 6.1e-5), nn.GELU(), nn.Conv1d(dim, dim, 1), nn.Dropout(args.dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(self.layer_norm(x).transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, positions: int):
        super().__init__()
        self.ff1, self.ff2 = feed_forward(dim), feed_forward(dim)
        self.attention, self.conv = Attention(dim, heads, positions), Convolution(dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 4.0 * self.ff1(x)
        x = self.norm1(ALPHA * x + self.attention(x))
        x = x + self.conv(x)
        return self.norm2(x + 4.0 * self.ff2(x))


class Theirs:
    def __init__(self) -> None:
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        dim = args.dim
        blocks = [Block(dim, args.heads, args.positions) for _ in range(args.layers)]
        self.body = nn.Sequential(nn.Linear(PATCH, dim), *blocks)
        self.head = nn.Linear(dim, args.codes)
        # As initialised by DeepNorm, so that no activation leaves the range in which arithmetic is fast.
        beta = (8 * args.layers) ** -0.25
        with torch.no_grad():
            for block in blocks:
                for weight in (block.ff1[1], block.ff1[4], block.ff2[1], block.ff2[4], block.attention.proj):
                    weight.weight.mul_(beta)
        self.parameters = [*self.body.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, 1e-4, weight_decay=1e-2)
        self.patches = torch.rand(args.minibatch, args.positions, PATCH) * 2 - 1
        self.tokens = torch.randint(args.codes, (args.minibatch, args.positions))

    def step(self) -> tuple[float, float]:
        start, before = time.perf_counter(), time.process_time()
        mask = (torch.rand(args.minibatch, math.ceil(args.positions / 10)) < 0.6).repeat_interleave(10, 1)
        mask = mask[:, : args.positions]
        patches = torch.where(mask.unsqueeze(-1), 0.1 * torch.randn_like(self.patches), self.patches)
        hidden = self.body(patches)
        loss = F.cross_entropy(self.head(hidden[mask]), self.tokens[mask])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        loss.item()
        return (time.perf_counter() - start) * 1e3, (time.process_time() - before) * 1e3


class Ours:
    def __init__(self) -> None:
        keys = ("dim", "layers", "heads", "positions", "minibatch", "dropout", "codes")
        words = (f"{key}={getattr(args, key)}" for key in keys)
        self.serving, self.peak = Serving(args.binary, "serve", *words, greets=False), 0.0

    def step(self) -> tuple[float, float]:
        wall, cpu, self.peak = self.serving.ask()
        return wall, cpu


def main() -> int:
    ours, theirs = Ours(), Theirs()
    times: dict[str, list[tuple[float, float]]] = {"omar-flow": [], "PyTorch": []}
    for turn in range(args.rounds + 2):
        for name, one in zip(times, (ours, theirs)):
            spent = one.step()
            if turn >= 2:
                times[name].append(spent)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, memory in (("omar-flow", ours.peak), ("PyTorch", peak - IMPORT_MB)):
        walls, cpus = zip(*times[name])
        print(
            f"{name:10} wall {statistics.median(walls):6.0f} ms (best {min(walls):.0f}), "
            f"processor {statistics.median(cpus):6.0f} ms (best {min(cpus):.0f}), memory {memory:.0f} MB"
        )
    (ours_wall, ours_cpu), (their_wall, their_cpu) = (zip(*one) for one in times.values())
    print(
        f"PyTorch / omar-flow: wall {statistics.median(their_wall) / statistics.median(ours_wall):.2f} "
        f"(best {min(their_wall) / min(ours_wall):.2f}), processor {statistics.median(their_cpu) / statistics.median(ours_cpu):.2f} "
        f"(best {min(their_cpu) / min(ours_cpu):.2f}), memory {ours.peak / (peak - IMPORT_MB):.2f} of theirs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
