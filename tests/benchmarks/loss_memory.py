"""The exact softmax over a catalog: peak memory and time of ours beside torch's cross_entropy.

    python -m tests.benchmarks.loss_memory --items 100000 1000000

Each side runs in a process of its own, so that its peak is its own: what is counted is the growth
of resident memory over the inputs, forward and backward. torch is left out where its three tables
of logits would not fit into half of the free memory.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rec.models.full_softmax import full_softmax
from tests.benchmarks.fair import machine

WIDTH = 64
SCALE = 10.0


def reference(users: Tensor, items: Tensor, targets: Tensor, *, scale: Tensor) -> Tensor:
    return F.cross_entropy(scale * users @ items.T, targets - 1, reduction="none")


SIDES: dict[str, Callable[..., Tensor]] = {"nextray": full_softmax, "torch": reference}


def make_inputs(num_targets: int, num_items: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    users = F.normalize(torch.randn(num_targets, WIDTH, generator=generator), dim=-1)
    items = F.normalize(torch.randn(num_items, WIDTH, generator=generator), dim=-1)
    targets = torch.randint(1, num_items + 1, (num_targets,), generator=generator)
    scale = torch.tensor(SCALE, requires_grad=True)
    return users.requires_grad_(), items.requires_grad_(), targets, scale


def run_side(pipe: Connection, name: str, num_targets: int, num_items: int) -> None:
    torch.set_num_threads(1)
    users, items, targets, scale = make_inputs(num_targets, num_items)
    SIDES[name](users[:8], items[:64], targets[:8] % 64 + 1, scale=scale).sum().backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    losses = SIDES[name](users, items, targets, scale=scale)
    losses.sum().backward()
    reading = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert users.grad is not None
    pipe.send(reading | {"peak_bytes": peak, "losses": losses.tolist(), "grad": users.grad.numpy()})


def measure(name: str, num_targets: int, num_items: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=run_side, args=(theirs, name, num_targets, num_items))
    child.start()
    theirs.close()
    answer: dict[str, Any] = ours.recv()
    child.join()
    return answer


def compare(num_targets: int, num_items: int, *, rounds: int) -> dict[str, Any]:
    logits_bytes = 4 * num_targets * num_items
    free = 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    names = [name for name in SIDES if name == "nextray" or 3 * logits_bytes < free / 2]
    readings: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            readings[name].append(measure(name, num_targets, num_items))
    result: dict[str, Any] = {"items": num_items, "targets": num_targets, "logits": logits_bytes}
    for name, rows in readings.items():
        result[name] = {
            key: statistics.median(row[key] for row in rows)
            for key in ("wall_s", "cpu_s", "peak_bytes")
        }
    if "torch" in readings:
        a, b = readings["nextray"][0], readings["torch"][0]
        result["largest_difference"] = {
            "loss": max(abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True)),
            "gradient": float(abs(a["grad"] - b["grad"]).max()),
        }
        for key in ("peak_bytes", "cpu_s", "wall_s"):
            result[f"ratio_{key}"] = round(result["nextray"][key] / result["torch"][key], 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--targets", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    rows = [compare(arguments.targets, n, rounds=arguments.rounds) for n in arguments.items]
    figures = {"machine": machine(), "rows": rows}
    arguments.figures.mkdir(parents=True, exist_ok=True)
    path = arguments.figures / "loss_memory.json"
    path.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print(json.dumps(figures, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
