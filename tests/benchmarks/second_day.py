"""B14, our side: the pipeline cold, again after 1 % more events, and again with nothing new.

    python -m tests.benchmarks.second_day --users 20000 --items 10000

Each run is a user's: ``jobs.pipeline`` in a process of its own, its figures those of its summary by
stage, after Ray's start. The newest 1 % of a synthetic shop's events come as a second file:
``prepare`` cleans the users that it names again, ``embed`` encodes what is new, and ``train``
learns the whole log anew (``jobs.loop --incremental`` would go on from the release). No peer runs
beside.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from rec.artifacts import write_json
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from tests.benchmarks.fair import machine

NEW_SHARE = 0.01
CLOCKS = ("wall_s", "cpu_s")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the three days and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args(argv)
    config = ShopConfig(num_users=arguments.users, num_items=arguments.items, events_per_user=30)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        newest, items = write_files(folder, config)
        days: dict[str, dict[str, Any]] = {}
        for day in ("first", "one percent more", "nothing new"):
            if day == "one percent more":
                newest.rename(folder / "events" / "0001.parquet")
            days[day] = run(arguments.recipe, folder, items)
    totals = {
        day: {clock: round(sum(job[clock] for job in jobs.values()), 1) for clock in CLOCKS}
        for day, jobs in days.items()
    }
    figures = {
        "benchmark": "B14",
        "shop": {"users": arguments.users, "items": arguments.items, "recipe": arguments.recipe},
        "days": days,
        "totals": totals,
        "over_first": {
            day: {clock: round(total[clock] / totals["first"][clock], 3) for clock in CLOCKS}
            for day, total in totals.items()
        },
        "machine": machine("polars", "ray"),
    }
    write_json(arguments.figures / "second_day.json", figures)
    print(table(days, totals))  # noqa: T201


def write_files(folder: Path, config: ShopConfig) -> tuple[Path, Path]:
    """Write the log but for its newest events; return the file of those, and the items' file."""
    written, items, _ = write_shop(make_shop(config), folder / "shop")
    events = pl.read_parquet(written).sort("timestamp", maintain_order=True)
    num_new = round(NEW_SHARE * events.height)
    (folder / "events").mkdir()
    events.head(-num_new).write_parquet(folder / "events" / "0000.parquet")
    newest = folder / "newest.parquet"
    events.tail(num_new).write_parquet(newest)
    return newest, items


def run(recipe: str, folder: Path, items: Path) -> dict[str, Mapping[str, Any]]:
    """Run the pipeline; return each stage's clocks and whether it found all of it done."""
    words = [recipe, "--workspace", str(folder / "workspace"), "--json"]
    words += ["--events", str(folder / "events"), "--items", str(items)]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.pipeline", *words],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    stages = json.loads(done.stdout)["stages"]
    return {stage["job"]: {name: stage[name] for name in (*CLOCKS, "skipped")} for stage in stages}


def table(days: Mapping[str, Mapping[str, Any]], totals: Mapping[str, Mapping[str, float]]) -> str:
    """Return CPU-seconds and wall time as Markdown, a day a row."""
    jobs = list(next(iter(days.values())))
    head = (
        "| CPU-s / wall s | " + " | ".join(jobs) + " | all |\n" + "|---" * (len(jobs) + 2) + "|\n"
    )
    rows = [
        f"| {day} | "
        + " | ".join(f"{one['cpu_s']} / {one['wall_s']}" for one in done.values())
        + f" | {totals[day]['cpu_s']} / {totals[day]['wall_s']} |"
        for day, done in days.items()
    ]
    return head + "\n".join(rows)


if __name__ == "__main__":
    main()
