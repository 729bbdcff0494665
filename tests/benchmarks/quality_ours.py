"""Our side: the public commands on the task's files, nothing set but whether repeats are wanted."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.quality_tasks import K, Task

_MEASURING = ("evaluate",)
"""Stages whose CPU time is not counted: they measure, and no list needs them."""


def run_ours(task: Task, folder: Path, *, recipe: str, figures: dict[str, Any]) -> Path:
    """Return the file of lists that ``pipeline`` and ``recommend`` make; add to the figures."""
    events, items, users = (str(path) for path in task.write(folder / "files"))
    workspace = str(folder / "workspace")
    repeats = [] if task.exclude_seen else ["--ranking.no-exclude-seen"]
    started = time.perf_counter()
    run = _job(
        "pipeline", recipe, "--events", events, "--items", items, "--workspace", workspace, *repeats
    )
    output = folder / "lists.parquet"
    asked = _job(
        "recommend", recipe, "--workspace", workspace, "--users", users, "--k", str(K),
        "--output", str(output), *repeats,
    )  # fmt: skip
    seconds = {stage["job"]: round(stage["cpu_s"], 1) for stage in [*run["stages"], asked]}
    figures["stages_cpu_s"] = seconds
    figures["cpu_s"] = round(sum(v for job, v in seconds.items() if job not in _MEASURING), 1)
    figures["wall_s"] = round(time.perf_counter() - started, 1)
    return output


def _job(name: str, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", *words, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    if done.returncode:
        raise SystemExit(f"jobs.{name} failed, see above")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary
