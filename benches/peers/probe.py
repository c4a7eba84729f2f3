"""Training a probe against PyTorch: 512-512-50 on 20,000 vectors, and 512-512-1 on windows of frames; two threads, the clock.

    cargo build --release --workspace --example bench_probe
    python benches/peers/probe.py target/release/examples/bench_probe [ROUNDS]

Both draw minibatches in random order from vectors in memory, drop, take the binary cross-entropy, and update by AdamW with
warm-up and cosine. Contestants alternate; medians of milliseconds per update.
"""

import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional

from serving import Serving

THREADS = 2


def peer(frames: bool):
    """A function that trains for so many updates, and says milliseconds per update."""
    windows, length, outputs, batch, dropout = (64, 562, 1, 16, 0.0) if frames else (20_000, 1, 50, 64, 0.2)
    values = torch.randn(windows, length, 512)
    targets = (torch.rand(windows, length, outputs) < 1 / 13).float()

    def run(steps: int) -> float:
        net = nn.Sequential(nn.Dropout(dropout), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(dropout), nn.Linear(512, outputs))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        order, start = torch.empty(0, dtype=torch.long), time.perf_counter()
        for _ in range(steps):
            if len(order) < batch:
                order = torch.randperm(windows)
            chosen, order = order[:batch], order[batch:]
            optimizer.zero_grad(set_to_none=True)
            loss = functional.binary_cross_entropy_with_logits(net(values[chosen].flatten(0, 1)), targets[chosen].flatten(0, 1))
            loss.backward()
            optimizer.step()
            schedule.step()
            loss.item()
        return (time.perf_counter() - start) * 1e3 / steps

    return run


def main(binary: str, rounds: int) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    for name, words, steps in (("20,000 vectors, minibatch 64", [], 400), ("16 windows of 562 frames", ["frames"], 20)):
        serving = Serving(binary, *words)
        contestants = {"ours": lambda steps, serving=serving: serving.ask(steps)[0], "pytorch": peer(bool(words))}
        times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
        for turn in range(rounds + 1):
            for contestant, run in contestants.items():
                spent = run(steps)
                if turn:
                    times[contestant].append(spent)
        ours, theirs = (statistics.median(times[contestant]) for contestant in contestants)
        print(f"{name}: {ours:.2f} ms per update, PyTorch {theirs:.2f} ms ({theirs / ours:.2f} x)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 7)
