"""B10: how fast lists are, beside one FastAPI process and Serve as it comes.

    python -m tests.benchmarks.serving --items 100000 --seconds 8 --rounds 3

All sides answer ``POST /v1/recommend`` for the same release, k 10, users with 50 events, over HTTP
on loopback, in turns (A/B/C/A/B/C). One peer is a uvicorn process that holds the same
``Recommender`` and the histories in a dict: no key, no log, no second process. The other is our own
graph on a Ray whose settings nobody has touched: Python's proxy, user code in a thread of its own,
workers that step back. First all must give the same lists. The load generator shares the machine's
cores with whom it asks. CPU-ms are those of a side's processes, all together, for one list.
"""

import argparse
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table

from cluster.resources import LAPTOP
from cluster.runtime import connect, free_port, prepare_environment
from cluster.serve.keys import ensure_admin_key
from rec.artifacts import write_json
from rec.data.events import Event
from rec.data.items import load_items
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from tests.benchmarks.load import NUM_USERS, K, Load, quantile
from tests.releases import START_MS, make_release

HISTORY = 50
CONCURRENCY = (1, 8, 32)
STAGES = ("history", "encode", "rank", "log", "total")
OURS, FASTAPI, DEFAULT = "nextray", "FastAPI, one process", "Serve as it comes"
SERVE_DEFAULTS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
    "RAY_worker_niceness": "15",
}


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


def run_graph(workspace: str, port: int, environment: Mapping[str, str], stop: Any) -> None:
    """Serve the workspace from a Ray of its own until told to stop."""
    os.environ.update(environment)
    prepare_environment(os.environ)  # Ray reads its settings when the import brings it
    from cluster.serve.app import serving

    with connect(LAPTOP), serving(Path(workspace), profile=LAPTOP, port=port):
        stop.wait()


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

    @api.get("/readyz")
    def ready() -> None:
        return

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
                    "cpu_ms": round(statistics.median(run["cpu_ms"] for run in found), 2),
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
    folder = Path(tempfile.mkdtemp(prefix="nextray-bench-"))
    release = make_release(folder / "ours", num_items=given.items)
    key, _ = ensure_admin_key(folder / "ours")
    shutil.copytree(folder / "ours", folder / "default")
    events = histories(load_items(release)["item_id"].to_list())
    processes = multiprocessing.get_context("spawn")
    stop = processes.Event()
    started: dict[str, tuple[Any, int]] = {}
    for name, target, arguments in (
        (OURS, run_graph, (str(folder / "ours"), {}, stop)),
        (FASTAPI, run_peer, (str(release),)),
        (DEFAULT, run_graph, (str(folder / "default"), SERVE_DEFAULTS, stop)),
    ):
        port = free_port()
        process = processes.Process(target=target, args=(arguments[0], port, *arguments[1:]))
        process.start()
        started[name] = (process, port)
    try:
        sides = {name: Load(port, key, process.pid) for name, (process, port) in started.items()}
        for load in sides.values():
            load.wait()
            load.fill(events)
        lists = [[load.ask(f"bench-{n}") for n in range(20)] for load in sides.values()]
        assert all(found == lists[0] for found in lists), "the sides do not answer alike"
        rows = compare(sides, seconds=given.seconds, rounds=given.rounds)
    finally:
        stop.set()
        started[FASTAPI][0].terminate()
        for process, _ in started.values():
            process.join(60)
            process.kill()
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
    for name in ("side", "c", "lists/s", "CPU-ms", "p50", "p99", *STAGES, "refused", "degraded"):
        table.add_column(name, justify="left" if name == "side" else "right")
    for row in rows:
        stages = (row["stages"].get(stage) for stage in STAGES)
        table.add_row(
            row["side"],
            str(row["concurrency"]),
            str(row["rate"]),
            str(row["cpu_ms"]),
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
