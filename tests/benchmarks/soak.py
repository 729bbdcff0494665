"""Does a replica's memory grow with the requests it has answered?

    python -m tests.benchmarks.soak --requests 100000

Serves a small release, asks for lists, sends events and searches, and reads the resident
memory of every replica twenty times. After a warm-up of one half a line is laid through the rest:
the target is less than 1 MB more per 10,000 requests. ``--control`` sends the same requests to a
deployment that echoes: what it grows by is Serve's own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from cluster.runtime import free_port
from cluster.serve.keys import ensure_admin_key
from tests.benchmarks import plain_serve
from tests.benchmarks.load import answers
from tests.chaos.test_serving import READY_WITHIN_S, service
from tests.processes import PROC, end_session, session_pids, title, wait_until
from tests.releases import make_release

DEPLOYMENTS = ("nextray:Gateway", "nextray:Ranker", "nextray:Encoder")
CONTROL = (f"{plain_serve.APPLICATION}:{plain_serve.DEPLOYMENT}",)
NUM_CLIENTS = 8
READINGS = 20
WARM_UP = 0.5
"""Of the requests: of 100,000 the first 40,000 fill the encoder's cache of 10,000 texts."""
TARGET_MB = 1.0


class Load:
    """Ask from a few threads until so many answers have come."""

    def __init__(self, url: str, key: str, number: int) -> None:
        self.statuses: Counter[int] = Counter()
        self._url, self._key, self._number = url, key, number
        self._lock = threading.Lock()
        self._given = 0
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(NUM_CLIENTS)]
        for thread in self.threads:
            thread.start()

    @property
    def done(self) -> int:
        """Return how many answers have come."""
        return self.statuses.total()

    def _run(self) -> None:
        with httpx.Client(
            base_url=self._url, headers={"Authorization": f"Bearer {self._key}"}, timeout=60
        ) as client:
            while True:
                with self._lock:
                    turn = self._given
                    self._given += 1
                if turn >= self._number:
                    return
                status = _ask(client, turn)
                with self._lock:
                    self.statuses[status] += 1


def _ask(client: httpx.Client, turn: int) -> int:
    """Send one of four kinds of requests."""
    user = f"user-{turn % 500}"
    if turn % 4 == 0:
        event = {"user_id": user, "item_id": f"item/{turn % 60}", "event_id": f"e{turn}"}
        return client.post("/v1/events", json=[event]).status_code
    if turn % 4 == 1:
        # A text of its own each time: nothing comes from the encoder's cache.
        return client.post("/v1/search", json={"query": f"red dress {turn}"}).status_code
    return client.post("/v1/recommend", json={"user_id": user, "k": 10}).status_code


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process that lives."""
    text = (PROC / str(pid) / "statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def plain(workspace: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serve a deployment that echoes, in a session of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.plain_serve", str(port)]
    process = subprocess.Popen(command, start_new_session=True)
    url = f"http://127.0.0.1:{port}/readyz"
    try:
        wait_until(
            lambda: process.poll() is not None or answers(url),
            within_s=READY_WITHIN_S,
            what=f"{workspace.name}: {url} answers",
        )
        assert process.poll() is None
        yield process
    finally:
        end_session(process.pid)
        process.wait()


def replicas(session: int, deployment: str) -> set[int]:
    mark = f"ray::ServeReplica:{deployment}"
    return {pid for pid in session_pids(session) if title(pid).startswith(mark)}


def main() -> None:
    """Print one JSON line for every replica."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--control", action="store_true", help="a deployment that echoes instead")
    given = parser.parse_args()
    number = given.requests
    deployments, run = (CONTROL, plain) if given.control else (DEPLOYMENTS, service)
    with tempfile.TemporaryDirectory(prefix="nextray-soak-") as folder:
        workspace = Path(folder)
        make_release(workspace)
        key, _ = ensure_admin_key(workspace)
        port = free_port()
        with run(workspace, port) as process:
            pids = {
                pid: name for name in deployments for pid in sorted(replicas(process.pid, name))
            }
            assert pids, "no replica was found"
            load = Load(f"http://127.0.0.1:{port}", key, number)
            begin = time.monotonic()
            readings: dict[int, list[tuple[int, float]]] = {pid: [] for pid in pids}
            for step in range(1, READINGS + 1):
                while load.done < number * step // READINGS and any(
                    thread.is_alive() for thread in load.threads
                ):
                    time.sleep(0.05)
                for pid, found in readings.items():
                    found.append((load.done, resident_mb(pid)))
            wall_s = time.monotonic() - begin
    for pid, name in pids.items():
        warm = readings[pid][int(READINGS * WARM_UP) :]
        requests, memory = (np.asarray(column, dtype=float) for column in zip(*warm, strict=True))
        slope = float(np.polyfit(requests, memory, 1)[0]) * 10_000
        print(  # noqa: T201
            json.dumps(
                {
                    "benchmark": "soak",
                    "deployment": name,
                    "requests": number,
                    "statuses": {str(k): v for k, v in sorted(load.statuses.items())},
                    "rps": round(number / wall_s, 1),
                    "first_mb": round(memory[0], 1),
                    "last_mb": round(memory[-1], 1),
                    "mb_per_10000": round(slope, 2),
                    "is_below_target": slope < TARGET_MB,
                    "load": round(os.getloadavg()[0], 1),
                }
            )
        )


if __name__ == "__main__":
    main()
