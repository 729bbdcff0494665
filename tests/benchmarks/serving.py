"""B10: how fast lists are, beside one FastAPI process that does the same sums.

    python -m tests.benchmarks.serving --items 100000 --seconds 8 --rounds 3

Both sides answer ``POST /v1/recommend`` for the same release, k 10, users with 50 events, over
HTTP on loopback, in turns (A/B/A/B). The peer is one uvicorn process that holds the same
``Recommender`` and the histories in a dict: no key, no log, no second process. First both must give
the same lists. The load generator shares the machine's cores with whom it asks.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table

from cluster.resources import LAPTOP
from cluster.runtime import connect, free_port
from cluster.serve.keys import ensure_admin_key
from rec.artifacts import write_json
from rec.data.events import Event
from rec.data.items import load_items
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from tests.releases import START_MS, make_release

NUM_USERS = 200
HISTORY = 50
K = 10
CONCURRENCY = (1, 8, 32)
STAGES = ("history", "encode", "rank", "log", "total")


def histories(item_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return each user's events as the API takes them."""
    draw = random.Random(0)
    return {
        f"bench-{user}": [
            {
                "user_id": f"bench-{user}",
                "item_id": draw.choice(item_ids),
                "timestamp": START_MS + 60_000 * place,
            }
            for place in range(HISTORY)
        ]
        for user in range(NUM_USERS)
    }


def run_peer(release: str, port: int) -> None:
    """Serve the release from this process alone."""
    torch.set_num_threads(1)
    recommender = Recommender.load(Path(release))
    known: dict[str, tuple[Event, ...]] = {}
    api = FastAPI()

    @api.post("/v1/events")
    async def add(body: list[dict[str, Any]]) -> dict[str, int]:
        for event in body:
            made = Event(
                user_id=event["user_id"],
                event_type="view",
                timestamp_ms=event["timestamp"],
                item_id=event["item_id"],
            )
            known[made.user_id] = (*known.get(made.user_id, ()), made)
        return {"accepted": len(body)}

    @api.post("/v1/recommend")
    def recommend(body: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        request = Request(history=known.get(body["user_id"], ()), k=body["k"])
        [found] = recommender.recommend([request])
        items = [
            {"item_id": i.item_id, "title": i.title, "position": i.position, "score": i.score}
            for i in found.items
        ]
        milliseconds = 1000 * (time.perf_counter() - start)
        return {"items": items, "degraded": [], "timings_ms": {"total": milliseconds}}

    uvicorn.run(api, host="127.0.0.1", port=port, log_level="warning")


class Load:
    """Ask one side from a number of connections at once."""

    def __init__(self, url: str, key: str) -> None:
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)
        self.key = key

    def fill(self, events: dict[str, list[dict[str, Any]]]) -> None:
        with httpx.Client(base_url=f"http://{self.host}:{self.port}", timeout=60) as client:
            client.headers["Authorization"] = f"Bearer {self.key}"
            for sent in events.values():
                answer = client.post("/v1/events", json=sent).raise_for_status().json()
                assert answer["accepted"] == len(sent)

    def ask(self, user: str) -> list[str]:
        url = f"http://{self.host}:{self.port}/v1/recommend"
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = httpx.post(url, json={"user_id": user, "k": K}, headers=headers, timeout=60)
        return [item["item_id"] for item in answer.raise_for_status().json()["items"]]

    def measure(self, concurrency: int, seconds: float) -> dict[str, Any]:
        """Return rate, latencies in ms, and each stage's milliseconds."""
        return asyncio.run(self._measure(concurrency, seconds))

    async def _measure(self, concurrency: int, seconds: float) -> dict[str, Any]:
        times: list[float] = []
        stages: dict[str, list[float]] = {}
        counts = {"refused": 0, "degraded": 0}
        end = time.perf_counter() + seconds

        async def visitor(number: int) -> None:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            draw = random.Random(number)
            while time.perf_counter() < end:
                user = f"bench-{draw.randrange(NUM_USERS)}"
                body = json.dumps({"user_id": user, "k": K}).encode()
                start = time.perf_counter()
                writer.write(
                    f"POST /v1/recommend HTTP/1.1\r\nHost: {self.host}\r\n"
                    f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                status, answer = await read_answer(reader)
                if status != 200:
                    counts["refused"] += 1
                    continue
                times.append(1000 * (time.perf_counter() - start))
                parsed = json.loads(answer)
                counts["degraded"] += bool(parsed["degraded"])
                for stage, value in parsed["timings_ms"].items():
                    stages.setdefault(stage, []).append(value)
            writer.close()

        begin = time.perf_counter()
        await asyncio.gather(*(visitor(number) for number in range(concurrency)))
        elapsed = time.perf_counter() - begin
        return {"rate": len(times) / elapsed, "times": times, "stages": stages, **counts}


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body of an HTTP/1.1 answer, by length or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    if "transfer-encoding: chunked" not in head:
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        return status, await reader.readexactly(length)
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return status, body


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def compare(sides: dict[str, Load], *, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Return one row a side and concurrency; the sides take turns."""
    rows: list[dict[str, Any]] = []
    for concurrency in CONCURRENCY:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for load in sides.values():
            load.measure(concurrency, 2.0)  # autoscaling and caches settle
        for _ in range(rounds):
            for name, load in sides.items():
                runs[name].append(load.measure(concurrency, seconds))
        for name, found in runs.items():
            times = [value for run in found for value in run["times"]]
            stages = {
                stage: [value for run in found for value in run["stages"].get(stage, [])]
                for stage in STAGES
            }
            rows.append(
                {
                    "side": name,
                    "concurrency": concurrency,
                    "lists": len(times),
                    "refused": sum(run["refused"] for run in found),
                    "degraded": sum(run["degraded"] for run in found),
                    "rate": round(statistics.median(run["rate"] for run in found), 1),
                    "p50_ms": round(quantile(times, 0.5), 2),
                    "p99_ms": round(quantile(times, 0.99), 2),
                    "stages": {
                        stage: [round(quantile(v, 0.5), 2), round(quantile(v, 0.99), 2)]
                        for stage, v in stages.items()
                        if v
                    },
                }
            )
    return rows


def main() -> None:
    """Run both sides and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    workspace = Path(tempfile.mkdtemp(prefix="nextray-bench-"))
    release = make_release(workspace, num_items=given.items)
    key, _ = ensure_admin_key(workspace)
    events = histories(load_items(release)["item_id"].to_list())
    port = free_port()
    peer = multiprocessing.get_context("spawn").Process(
        target=run_peer, args=(str(release), port), daemon=True
    )
    peer.start()
    try:
        with connect(LAPTOP):
            from cluster.serve.app import serving

            with serving(workspace, profile=LAPTOP, port=free_port()) as url:
                sides = {
                    "nextray": Load(url, key),
                    "FastAPI, one process": Load(f"http://127.0.0.1:{port}", key),
                }
                for load in sides.values():
                    load.fill(events)
                ours, theirs = (
                    [load.ask(f"bench-{n}") for n in range(20)] for load in sides.values()
                )
                assert ours == theirs, "the sides do not answer alike"
                rows = compare(sides, seconds=given.seconds, rounds=given.rounds)
    finally:
        peer.terminate()
    figures = {
        "benchmark": "serving",
        "items": given.items,
        "history": HISTORY,
        "k": K,
        "seconds": given.seconds,
        "rounds": given.rounds,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rows": rows,
    }
    given.figures.mkdir(parents=True, exist_ok=True)
    write_json(given.figures / "serving.json", figures)
    show(rows, given.figures / "serving.json")


def show(rows: Sequence[dict[str, Any]], path: Path) -> None:
    table = Table(title="POST /v1/recommend, ms (p50 / p99 by stage)", title_justify="left")
    for name in ("side", "c", "lists/s", "p50", "p99", *STAGES, "refused", "degraded"):
        table.add_column(name, justify="left" if name == "side" else "right")
    for row in rows:
        stages = (row["stages"].get(stage) for stage in STAGES)
        table.add_row(
            row["side"],
            str(row["concurrency"]),
            str(row["rate"]),
            str(row["p50_ms"]),
            str(row["p99_ms"]),
            *("" if pair is None else f"{pair[0]} / {pair[1]}" for pair in stages),
            str(row["refused"]),
            str(row["degraded"]),
        )
    console = Console(stderr=True, width=160)
    console.print(table)
    console.print(f"written: {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
