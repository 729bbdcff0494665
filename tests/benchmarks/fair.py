"""What makes a comparison fair: turns, medians, CPU-seconds, and the machine beside the figures."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

Reading = Mapping[str, float]
"""``wall_s`` and ``cpu_s`` of one run."""


def in_turns(
    sides: Mapping[str, Callable[[], Reading]], *, rounds: int
) -> dict[str, list[Reading]]:
    """Return the readings of every side, taken A/B/A/B so that a disturbance meets all."""
    readings: dict[str, list[Reading]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            readings[name].append(run())
    return readings


def ratios(ours: list[Reading], theirs: list[Reading]) -> dict[str, Any]:
    """Return how many times faster ours is: the ratio of medians, and its range over rounds."""
    out: dict[str, Any] = {}
    for clock in ("wall_s", "cpu_s"):
        a, b = ([row[clock] for row in side] for side in (ours, theirs))
        by_round = sorted(y / x for x, y in zip(a, b, strict=True))
        out[clock] = {
            "ratio": round(statistics.median(b) / statistics.median(a), 3),
            "lowest": round(by_round[0], 3),
            "highest": round(by_round[-1], 3),
        }
    return out


def medians(readings: list[Reading]) -> dict[str, float]:
    """Return the median of each clock."""
    return {
        clock: round(statistics.median(row[clock] for row in readings), 4)
        for clock in ("wall_s", "cpu_s")
    }


def machine(*packages: str) -> dict[str, Any]:
    """Return processor, load, versions, and what memory and arithmetic give on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    square = torch.randn(1024, 1024)
    block = np.ones(1 << 25, dtype=np.uint8)
    gemm_s = _best(lambda: square @ square)
    copy_s = _best(block.copy)
    torch.set_num_threads(threads)
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", *packages)},
        "gemm_gflops": round(2 * 1024**3 / gemm_s / 1e9, 1),
        "copy_gb_per_s": round(2 * block.nbytes / copy_s / 1e9, 1),
    }


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
