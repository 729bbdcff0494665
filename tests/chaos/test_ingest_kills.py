"""Kill ``jobs.ingest`` at random points while feedback arrives: each event is taken once.

Run by ``make drills``. The events are counted where ``prepare`` has put them, in ``events/``.
"""

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from rec.artifacts import latest_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.events import Event
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.stages import ingesting
from rec.stages.ingesting import ingest
from rec.stages.preparation import FEEDBACK_BATCHES, prepare
from tests.chaos.figures import show

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_KILLS = 12
BATCH_EVENTS = 200
"""Small ones, so that there are many places to be killed at."""
_INGEST = """
import sys
from pathlib import Path
from rec.stages import ingesting
ingesting.BATCH_EVENTS = int(sys.argv[2])
print("begins", flush=True)
ingesting.ingest(Path(sys.argv[1]))
"""


def test_killed_ingest_takes_every_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "BATCH_EVENTS", BATCH_EVENTS)
    shop = make_shop(ShopConfig(num_users=60, num_items=60, events_per_user=10))
    events, items, _ = write_shop(shop, tmp_path / "files")
    item_ids = pl.read_parquet(items)["item_id"].to_list()
    workspace = tmp_path / "workspace"
    log = EventLog(workspace / LOG_FILE)
    sent = 0
    stop = threading.Event()

    def append(number: int) -> None:
        nonlocal sent
        log.append(
            [
                Event(
                    user_id=f"user-{n % 40}",
                    event_type="view",
                    timestamp_ms=1_750_000_000_000 + n,
                    item_id=item_ids[n % len(item_ids)],
                    event_id=f"fed-{n}",
                )
                for n in range(sent, sent + number)
            ]
        )
        sent += number

    def write() -> None:
        while not stop.wait(0.01):
            append(50)

    append(5_000)
    writer = threading.Thread(target=write)
    writer.start()
    chance = random.Random(0)
    killed = leftovers = 0
    command = [sys.executable, "-c", _INGEST, str(workspace), str(BATCH_EVENTS)]
    try:
        for _ in range(NUM_KILLS):
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(chance.uniform(0, 0.15))
                process.send_signal(signal.SIGKILL)
            killed += process.returncode == -signal.SIGKILL
            leftovers += len(list((workspace / FEEDBACK_BATCHES).glob(".batch.*")))
    finally:
        stop.set()
        writer.join()
    ingest(workspace)
    log.close()
    files = sorted((workspace / FEEDBACK_BATCHES).glob("batch-*.parquet"))
    taken = Counter(name for file in files for name in pq.read_table(file)["event_id"].to_pylist())
    prepare(
        workspace,
        events=[str(events)],
        items=[str(items)],
        config=CleaningConfig(pseudonymize_users=False),
        num_partitions=2,
    )
    folder = latest_artifact(workspace, "events", made_by="prepare").path
    stored = pl.concat(
        [pl.read_parquet(path, columns=["user_id", "timestamp_ms"]) for path in event_parts(folder)]
    )
    fed = stored.filter(pl.col("timestamp_ms") >= 1_750_000_000_000)
    times = fed["timestamp_ms"]
    show(
        "ingest killed",
        kills=killed,
        events=sent,
        batches=len(files),
        lost=sent - times.n_unique(),
        doubled=len(times) - times.n_unique(),
        leftovers_seen=leftovers,
    )
    assert killed >= NUM_KILLS // 2
    assert taken == Counter({f"fed-{n}": 1 for n in range(sent)})
    assert sorted(times.to_list()) == [1_750_000_000_000 + n for n in range(sent)]
    assert not list((workspace / FEEDBACK_BATCHES).glob(".batch.*"))


def event_parts(folder: Path) -> list[Path]:
    """Return the files of clean events."""
    return [
        path
        for path in folder.rglob("*.parquet")
        if {"user_id", "timestamp_ms"} <= set(pq.read_schema(path).names)
    ]
