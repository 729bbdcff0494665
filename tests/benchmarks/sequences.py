"""B13: from the rows of a log to clean sequences, beside polars and DuckDB.

    python -m tests.benchmarks.sequences --peer-python PEER/bin/python --events 4000000 16000000

The log is made: Zipf users and items, ties (times in whole seconds), 2 % exact duplicates, and one
bot with a tenth of all events. The peer to compare with is ``polars_same_work``
(:mod:`tests.benchmarks.same_work`): what nextray does to this log, as a plain script, held to the
same counts. ``polars`` and ``duckdb`` do a part of the work: they take exact duplicates
out, put each user's events in time order (ties in the input's order) and write lists by user,
without checks, pseudonyms, event ids, sessions, a quarantine or clean events. Ray's start is in
nextray's time. Every side runs in a process of its own. PEER is an environment with duckdb.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rec.artifacts import write_json
from rec.data.sequences import load_sequences
from tests.benchmarks.fair import Reading, in_turns, machine, medians, ratios

FILE_EVENTS = 4_000_000
NUM_ITEMS = 20_000
BOT = "bot"
BOT_SHARE, DUPLICATE_SHARE = 0.10, 0.02
T, DAYS = 1_700_000_000, 90
_METER = """
import json, subprocess, sys
from cluster.memory import MemoryMeter
with MemoryMeter() as meter:
    subprocess.run(sys.argv[1:], check=True)
print(json.dumps(meter.read()))
"""
"""In a small process: this one still has the log that it made."""
SAME_WORK = "polars_same_work"
_SAME_WORK = "import sys; from tests.benchmarks.same_work import main; main(*sys.argv[1:])"
_POLARS = """
import sys
import polars as pl
(pl.scan_parquet(sys.argv[1] + "/events/*.parquet").with_row_index("row")
    .unique(["user_id", "item_id", "event_type", "timestamp"], keep="first", maintain_order=True)
    .sort("user_id", "timestamp", "row")
    .group_by("user_id", maintain_order=True).agg("item_id", "event_type", "timestamp")
    .sink_parquet(sys.argv[2]))
"""
_DUCKDB = """
import sys
import duckdb
db = duckdb.connect(sys.argv[2] + ".db")
db.execute("SET threads=2; SET preserve_insertion_order=false")
db.execute(f"SET temp_directory='{sys.argv[2]}.tmp'")
db.execute(f'''
COPY (
    SELECT user_id, list(item_id ORDER BY timestamp, f, r) AS item_id,
        list(event_type ORDER BY timestamp, f, r) AS event_type,
        list(timestamp ORDER BY timestamp, f, r) AS timestamp
    FROM (
        SELECT user_id, item_id, event_type, timestamp, min(filename) AS f,
            arg_min(file_row_number, (filename, file_row_number)) AS r
        FROM read_parquet('{sys.argv[1]}/events/*.parquet', filename=true, file_row_number=true)
        GROUP BY ALL
    ) GROUP BY user_id
) TO '{sys.argv[2]}' (FORMAT parquet)''')
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", type=Path, default=None)
    parser.add_argument("--events", type=int, nargs="+", default=(4_000_000, 16_000_000))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="room for the logs")
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    parser.add_argument("--alone", action="store_true", help="without the peers")
    arguments = parser.parse_args(argv)
    figures: dict[str, Any] = {"benchmark": "B13", "rounds": arguments.rounds, "sizes": {}}
    for num_events in arguments.events:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            write_log(folder, num_events)
            sides: dict[str, Callable[[], Reading]] = {"nextray": lambda f=folder: nextray(f)}
            if not arguments.alone:
                sides[SAME_WORK] = lambda f=folder: same_work(f)
                sides["polars"] = lambda f=folder: peer(sys.executable, _POLARS, f, "polars")
            if arguments.peer_python and not arguments.alone:
                python = str(arguments.peer_python)
                sides["duckdb"] = lambda f=folder, p=python: peer(p, _DUCKDB, f, "duckdb")
            readings = in_turns(sides, rounds=arguments.rounds)
            peers = [side for side in sides if side != "nextray"]
            listed = [side for side in peers if side != SAME_WORK]
            figures["sizes"][num_events] = {
                "sides": {
                    side: {**medians(rows), **_peak(rows)} for side, rows in readings.items()
                },
                "bot": bot_of(folder),
                "equal_users": {side: equal_users(folder, side) for side in listed},
                "equal_counts": equal_counts(folder) if peers else None,
                "peer_over_nextray": {
                    side: ratios(readings["nextray"], readings[side]) for side in peers
                },
            }
            print(json.dumps(figures["sizes"][num_events], indent=1), file=sys.stderr)  # noqa: T201
    figures["machine"] = machine("polars", "pyarrow", "ray")
    write_json(arguments.figures / "sequences.json", figures)


def write_log(folder: Path, num_events: int) -> None:
    """Write the log and its catalog; the rows of a file are as they came in, not sorted by user."""
    random = np.random.default_rng(13)
    (folder / "events").mkdir()
    num_users = num_events // 40
    types = pl.Series(["view", "view", "view", "cart", "purchase"])
    for number, start in enumerate(range(0, num_events, FILE_EVENTS)):
        count = min(FILE_EVENTS, num_events - start)
        users = _zipf(random, num_users, count)
        is_bot = random.random(count) < BOT_SHARE
        names = pl.select(
            pl.when(pl.Series(is_bot))
            .then(pl.lit(BOT))
            .otherwise(pl.format("user-{}", pl.Series("user", users)))
        ).to_series()
        span = DAYS * 86_400 * FILE_EVENTS // max(num_events, FILE_EVENTS)
        frame = pl.DataFrame(
            {
                "user_id": names,
                "item_id": pl.select(
                    pl.format("item-{}", pl.Series("item", _zipf(random, NUM_ITEMS, count)))
                ).to_series(),
                "event_type": types.gather(random.integers(0, len(types), count)),
                "timestamp": T + number * span + np.sort(random.integers(0, span, count)),
            }
        )
        # A row again, a few rows later: what a collector sends twice.
        again = frame.sample(fraction=DUPLICATE_SHARE, seed=number)
        frame = pl.concat([frame.head(count - again.height), again])
        frame.write_parquet(
            folder / "events" / f"{number:04d}.parquet", row_group_size=1 << 18, statistics=False
        )
    ids = [f"item-{n}" for n in range(1, NUM_ITEMS + 1)]
    titles = [f"thing number {n}" for n in range(1, NUM_ITEMS + 1)]
    pl.DataFrame({"item_id": ids, "title": titles}).write_parquet(folder / "items.parquet")


def nextray(folder: Path) -> Reading:
    """Run the job as a user does; its own summary says what it took."""
    shutil.rmtree(folder / "workspace", ignore_errors=True)
    words = [
        "laptop", "--events", str(folder / "events"), "--items", str(folder / "items.parquet"),
        "--workspace", str(folder / "workspace"), "--json",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "jobs.prepare", *words], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1500:]
    summary = json.loads(done.stdout)
    return {name: summary[name] for name in ("wall_s", "cpu_s", "peak_memory_bytes")}


def peer(python: str, code: str, folder: Path, side: str) -> Reading:
    """Run a peer's script in a process of its own."""
    for path in folder.glob(f"{side}.parquet*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = [str(folder), str(folder / f"{side}.parquet")]
    done = subprocess.run(
        [sys.executable, "-c", _METER, python, "-c", code, *words],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
    reading: Reading = json.loads(done.stdout)
    return reading


def same_work(folder: Path) -> Reading:
    """Run the script that does nextray's work."""
    return peer(sys.executable, _SAME_WORK, folder, SAME_WORK)


def equal_counts(folder: Path) -> dict[str, Any]:
    """Return the counts on which nextray and the script of the same work agree: all of them."""
    path = folder / f"{SAME_WORK}.parquet" / "counts.json"
    theirs = json.loads(path.read_text(encoding="utf-8"))
    [path] = (folder / "workspace" / "events").glob("*/manifest.json")
    counts = json.loads(path.read_text(encoding="utf-8"))["counts"]
    names = ("rows_in", "kept", "duplicates", "sessions", "users")
    ours = {name: counts[name] for name in names}
    ours["quarantined"] = sum(counts["quarantined"].values())
    assert ours == {name: theirs[name] for name in ours}, (ours, theirs)
    return ours


def bot_of(folder: Path) -> dict[str, Any]:
    """Return what the job reports of the bot."""
    [path] = (folder / "workspace" / "events").glob("*/data_card.json")
    card = json.loads(path.read_text(encoding="utf-8"))
    return {
        "rows_in": card["rows"]["rows_in"],
        "bots": [b["events"] for b in card["users"]["bots"]],
    }


def equal_users(folder: Path, side: str) -> int:
    """Return how many users a peer's lists and ours agree on; every one must but a bot set aside.

    Ids are hashed here and plain there, so users are matched by what their sequences hold.
    """
    [path] = (p for p in (folder / "workspace" / "sequences").iterdir() if p.is_dir())
    ours = load_sequences(path)
    items = pl.read_parquet(folder / "items.parquet")["item_id"].sort()
    tokens = pl.Series(ours.tokens)
    named = items.gather(tokens - 1).hash(1)
    rows = pl.Series(ours.rows())
    place = pl.int_range(pl.len()).over("user") + 1
    digest = (pl.col("item").reinterpret(signed=True) // 1_000_003 * place + pl.col("time")).sum()
    table = pl.DataFrame({"user": rows, "item": named, "time": ours.timestamps_ms // 1000})
    mine = table.with_columns(place=place).group_by("user").agg(digest.alias("digest"))
    theirs = (
        pl.read_parquet(folder / f"{side}.parquet", columns=["user_id", "item_id", "timestamp"])
        .filter((pl.col("user_id") != BOT) | (not bot_of(folder)["bots"]))
        .explode("item_id", "timestamp")
        .select(
            pl.col("user_id").alias("user"),
            pl.col("item_id").hash(1).alias("item"),
            pl.col("timestamp").alias("time"),
        )
        .group_by("user")
        .agg(digest.alias("digest"))
    )
    same = len(mine.join(theirs, on="digest", how="semi"))
    assert same == len(mine) == len(theirs), (same, len(mine), len(theirs))
    return same


def _zipf(random: np.random.Generator, size: int, count: int) -> np.ndarray[Any, Any]:
    """Return numbers of 1..size; few of them are frequent (exponent 0.8, as in shops' logs)."""
    weights = np.arange(1, size + 1) ** -0.8
    bounds = np.cumsum(weights / weights.sum())
    return np.minimum(np.searchsorted(bounds, random.random(count)), size - 1) + 1


def _peak(rows: Sequence[Reading]) -> dict[str, float]:
    return {"peak_gb": round(max(row["peak_memory_bytes"] for row in rows) / 1e9, 2)}


if __name__ == "__main__":
    main()
