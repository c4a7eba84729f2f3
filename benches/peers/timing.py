"""Fair timing: every contestant in turn, round after round, by processor time.

Alternating rounds spread the disturbances of a busy machine over all contestants, and processor time leaves out what
other programs took. Pin the whole script to one core: `taskset -c 0 python SCRIPT`.
"""

import resource
import statistics
from typing import Callable, Mapping, NamedTuple


class Times(NamedTuple):
    """Milliseconds of processor time per run."""

    median: float
    best: float


def _cpu_s() -> float:
    """Processor time so far of this process, all its threads, and the children it has waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def alternate(contestants: Mapping[str, Callable[[], object]], rounds: int = 20, warm_up: int = 2) -> dict[str, Times]:
    """Runs the contestants in turn, `rounds` times after `warm_up` rounds that don't count.

    A contestant that returns a float has timed itself, in milliseconds: a program that takes long to start reports
    the time of its work alone. Whatever else it returns is ignored, and its processor time is taken from outside.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warm_up + rounds):
        for name, run in contestants.items():
            before = _cpu_s()
            own = run()
            spent = (_cpu_s() - before) * 1e3
            if turn >= warm_up:
                times[name].append(own if isinstance(own, float) else spent)
    return {name: Times(statistics.median(values), min(values)) for name, values in times.items()}
