"""Show what `nextray up` started: processes, memory, ports and jobs. Exits with 1 if nothing is up.

nextray status --json
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster import launcher
from cluster.progress import console
from cluster.submission import list_jobs
from jobs.shell import run_command


@dataclass(frozen=True, kw_only=True)
class StatusArguments:
    """Say which cluster."""

    folder: Path = Path("~/.nextray")
    """The folder that `up` was given."""
    json: bool = False
    """Print one JSON object on stdout."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(StatusArguments, _work, argv, name="status", description=str(__doc__))


def _work(arguments: StatusArguments) -> None:
    status = _status(arguments.folder.expanduser())
    if arguments.json:
        print(json.dumps(status))  # noqa: T201
    elif not status["is_up"]:
        console().print("nothing is up: `nextray up` starts a cluster")
    else:
        memory = status["memory_bytes"] / 2**30
        console().print(
            f"up at {status['address']}: {status['processes']} processes, {memory:.2f} GiB"
        )
        console().print("listening on " + ", ".join(status["listening"]))
        for job in status["jobs"]:
            console().print(f"{job['submission_id']}  {job['status']:<9} {job['entrypoint']}")
    if not status["is_up"]:
        sys.exit(1)


def _status(folder: Path) -> dict[str, Any]:
    cluster = launcher.find(folder)
    own = launcher.processes(cluster) if cluster else []
    if cluster is None or not own:
        return {"is_up": False}
    memory = 0
    for process in own:
        try:
            memory += process.memory_info().rss
        except psutil.Error:  # it ended meanwhile
            continue
    return {
        "is_up": True,
        "address": cluster.address,
        "dashboard": cluster.dashboard,
        "processes": len(own),
        "memory_bytes": memory,
        "listening": [f"{host}:{port}" for host, port in launcher.listening(own)],
        "jobs": list_jobs(cluster.dashboard) if cluster.dashboard else [],
    }


if __name__ == "__main__":
    main()
