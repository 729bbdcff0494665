"""B11: how long from an event to the list that it changes, and are events lost on the way?

    python -m tests.benchmarks.feedback --items 10000 --rounds 500 --events 100000

Two sides in turns (A/B/A/B): our service, and one FastAPI process that holds the same
``Recommender`` and its users' events in a dict, the peer of ``tests.benchmarks.serving``. A round
asks for a user's list, sends a view of its first item, and asks again; the clock runs from the
sending of the event to the second list, which must be another one. Our event is on disk by then,
and so is the record of our list; the peer keeps nothing.

Then our service takes so many events over several connections, lists being asked for meanwhile,
and every event that was acknowledged is looked for in the log, once.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import platform
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.runtime import free_port
from cluster.serve.keys import ensure_admin_key
from rec.artifacts import write_json
from rec.data.items import load_items
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from tests.benchmarks.load import NUM_USERS, K, Load, quantile
from tests.benchmarks.serving import FASTAPI, OURS, histories, run_graph, run_peer
from tests.releases import START_MS, make_release

TARGET_MS = 20.0
BLOCK = 50
"""Rounds of one side before it is the other's turn."""
NUM_WRITERS = 8
GROUP = 50
"""Events of one request."""


class Side:
    """Ask one side over a connection that stays open."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.times_ms: dict[str, list[float]] = {"event": [], "list": [], "event to list": []}
        self.same = 0
        self.closed = 0
        """Connections that ended before an answer: the same is sent again, and counts once."""
        self._connection = http.client.HTTPConnection(load.host, load.port, timeout=60)
        self._connect()

    def _connect(self) -> None:
        self._connection.close()
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: Any) -> Any:
        headers = {
            "Authorization": f"Bearer {self.load.key}",
            "Content-Type": "application/json",
        }
        for is_last in (False, True):
            try:
                self._connection.request("POST", path, json.dumps(body), headers)
                answer = self._connection.getresponse()
                content = answer.read()
                break
            except (ConnectionError, http.client.HTTPException):
                # A proxy that takes up new replicas closes what it holds.
                if is_last:
                    raise
                self.closed += 1
                self._connect()
        assert answer.status == 200, content
        return json.loads(content)

    def list_of(self, user: str) -> list[str]:
        answer = self.post("/v1/recommend", {"user_id": user, "k": K})
        return [item["item_id"] for item in answer["items"]]

    def run(self, first: int, number: int) -> None:
        """Measure some rounds."""
        for turn in range(first, first + number):
            user = f"bench-{turn % NUM_USERS}"
            before = self.list_of(user)
            event = {
                "user_id": user,
                "item_id": before[0],
                "timestamp": START_MS + 10**9 + turn,
                "event_id": f"round-{turn}",
            }
            start = time.perf_counter()
            stored_answer = self.post("/v1/events", [event])
            assert stored_answer["accepted"] + stored_answer.get("duplicates", 0) == 1
            stored = time.perf_counter()
            after = self.list_of(user)
            end = time.perf_counter()
            self.same += after == before
            for name, seconds in (
                ("event", stored - start),
                ("list", end - stored),
                ("event to list", end - start),
            ):
                self.times_ms[name].append(1000 * seconds)


class Writer(threading.Thread):
    """Send events of one's own until there are enough; ``acknowledged`` holds their ids."""

    def __init__(self, load: Load, number: int, *, num_events: int, items: list[str]) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[str] = []
        self._load, self._number, self._left, self._items = load, number, num_events, items

    def run(self) -> None:
        side = Side(self._load)
        while self._left > 0:
            size = min(GROUP, self._left)
            ids = [f"w{self._number}-{self._left - place}" for place in range(size)]
            events = [
                {
                    "user_id": f"writer-{(self._left - place) % 1000}",
                    "item_id": self._items[(self._left - place) % len(self._items)],
                    "event_id": event_id,
                }
                for place, event_id in enumerate(ids)
            ]
            answer = side.post("/v1/events", events)
            assert answer["accepted"] + answer["duplicates"] == size, answer
            self.acknowledged += ids
            self._left -= size
            if self._number == 0:
                side.list_of(events[0]["user_id"])


def count_lost(load: Load, path: Path, *, num_events: int, items: list[str]) -> dict[str, Any]:
    """Return how many events were acknowledged, how many are not in the log, or twice."""
    share = num_events // NUM_WRITERS
    writers = [Writer(load, n, num_events=share, items=items) for n in range(NUM_WRITERS)]
    start = time.perf_counter()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seconds = time.perf_counter() - start
    acknowledged = [event_id for writer in writers for event_id in writer.acknowledged]
    log = EventLog(path)
    rows = log.read_after(0, 100 * num_events + 1_000_000)
    log.close()
    stored = Counter(event.event_id for _, event in rows)
    return {
        "sent": share * NUM_WRITERS,
        "acknowledged": len(acknowledged),
        "lost": sum(stored[event_id] == 0 for event_id in acknowledged),
        "twice": sum(stored[event_id] > 1 for event_id in acknowledged),
        "events_per_s": round(len(acknowledged) / seconds),
    }


def main() -> None:
    """Run both sides and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nextray-bench-"))
    release = make_release(folder / "ours", num_items=given.items)
    items: list[str] = load_items(release)["item_id"].to_list()
    key, _ = ensure_admin_key(folder / "ours")
    processes = multiprocessing.get_context("spawn")
    stop = processes.Event()
    ports = {OURS: free_port(), FASTAPI: free_port()}
    started = {
        OURS: processes.Process(
            target=run_graph, args=(str(folder / "ours"), ports[OURS], {}, stop)
        ),
        FASTAPI: processes.Process(target=run_peer, args=(str(release), ports[FASTAPI])),
    }
    for process in started.values():
        process.start()
    try:
        loads = {name: Load(ports[name], key, started[name].pid) for name in started}
        for load in loads.values():
            load.wait()
            load.fill(histories(items))
        sides = {name: Side(load) for name, load in loads.items()}
        for first in range(0, given.rounds + BLOCK, BLOCK):
            for side in sides.values():
                side.run(first, BLOCK)
                if first == 0:  # caches fill, code is loaded
                    side.times_ms = {name: [] for name in side.times_ms}
        kept = count_lost(
            loads[OURS], folder / "ours" / LOG_FILE, num_events=given.events, items=items
        )
    finally:
        stop.set()
        started[FASTAPI].terminate()
        for process in started.values():
            process.join(60)
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    rows = [
        {
            "side": name,
            "rounds": len(side.times_ms["list"]),
            "closed": side.closed,
            "unchanged": side.same,
            **{
                part: [round(quantile(times, 0.5), 2), round(quantile(times, 0.99), 2)]
                for part, times in side.times_ms.items()
            },
        }
        for name, side in sides.items()
    ]
    figures = {
        "benchmark": "feedback beside a dict",
        "items": given.items,
        "target_p99_ms": TARGET_MS,
        "is_below_target": rows[0]["event to list"][1] <= TARGET_MS,
        "events": kept,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "rows": rows,
    }
    given.figures.mkdir(parents=True, exist_ok=True)
    path = given.figures / "feedback-peer.json"
    write_json(path, figures)
    show(rows, kept, path)
    assert kept["lost"] == kept["twice"] == 0


def show(rows: list[dict[str, Any]], kept: dict[str, Any], path: Path) -> None:
    parts = ("event", "list", "event to list")
    table = Table(title="from an event to the changed list, ms (p50 / p99)", title_justify="left")
    for name in ("side", "rounds", "unchanged", "closed", *parts):
        table.add_column(name, justify="left" if name == "side" else "right")
    for row in rows:
        pairs = (f"{row[part][0]} / {row[part][1]}" for part in parts)
        table.add_row(
            row["side"], str(row["rounds"]), str(row["unchanged"]), str(row["closed"]), *pairs
        )
    console = Console(stderr=True, width=120)
    console.print(table)
    console.print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in kept.items()))
    console.print(f"written: {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
