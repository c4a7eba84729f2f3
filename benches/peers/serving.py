"""Our contestant: one of the examples of omar-flow in its serving mode."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


class Serving:
    """Starts once, and answers every line with a line of numbers, the time that it took first."""

    def __init__(self, *command: object, greets: bool = True):
        """`greets`: it says something of itself before it is asked."""
        words = [str(word) for word in command]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.what = self.process.stdout.readline().strip() if greets else ""

    def ask(self, *words: object) -> list[float]:
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().split()
        if not answer:
            raise SystemExit(f"{self.process.args[0]} ended with status {self.process.wait()} instead of an answer")
        return [float(word) for word in answer]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Encoding:
    """A served encoder: hears `in.f32` of a folder, and writes what it makes of it into `out.f32`."""

    def __init__(self, serving: Serving, folder: Path, *shape: object):
        """`shape`: what it has to be told of the input beside how often to take it."""
        self.serving, self.shape = serving, shape
        self.input, self.out = folder / "in.f32", folder / "out.f32"

    def run(self, batch: int) -> float:
        """Milliseconds per crop, for `batch` crops together."""
        return self.serving.ask(batch, *self.shape, self.input, self.out)[0]

    def output(self) -> numpy.ndarray:
        import numpy  # not every script needs it

        return numpy.fromfile(self.out, "<f4")
