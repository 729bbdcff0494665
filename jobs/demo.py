"""Show the whole loop on a real log: files to a live endpoint, feedback, and the changed list.

nextray demo

nextray demo --full
"""

import shutil
import signal
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import tyro
from rich.table import Table

from cluster.progress import console
from cluster.resources import PROFILES
from cluster.runtime import connect
from jobs.command import print_summary
from jobs.flow import run_stages
from jobs.recipes import DEMO
from jobs.refusals import in_one_line
from jobs.shell import check_port, check_workspace, stop
from jobs.tables import print_metrics
from rec.data.samples import load_complete_journey, write_sample
from rec.errors import ConfigError, RecError

ROUNDS = 20
"""Rounds of feedback that are timed after the one that is shown."""
MAX_WEEKS = 53
"""The log covers one year."""


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Say how much of the log, and where to."""

    workspace: Path = Path("workspace")
    """Root of all artifacts; kept, so that `make serve` can go on."""
    weeks: int = 4
    """Newest weeks of the log."""
    full: bool = False
    """Take the whole year, 1.47 million purchases."""
    port: int = 8000
    """TCP port of the service on loopback."""
    stay: bool = False
    """Go on serving until Ctrl-C, with a link to the page."""
    rounds: int = ROUNDS
    """Rounds of feedback that are timed."""
    verbose: bool = False
    """Show tracebacks."""

    def __post_init__(self) -> None:
        check_workspace(self.workspace)
        check_port(self.port)
        if not 1 <= self.weeks <= MAX_WEEKS:
            raise ConfigError(f"--weeks must be in 1..{MAX_WEEKS}, got {self.weeks}")
        if self.rounds < 0:
            raise ConfigError(f"--rounds must be >= 0, got {self.rounds}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo and stop everything it started."""
    prog = "nextray demo"
    try:
        with in_one_line(prog, argv):
            arguments = tyro.cli(DemoArguments, args=argv, prog=prog, description=str(__doc__))
    except RecError as error:
        stop(error)
    try:
        run_demo(arguments)
    except RecError as error:
        if arguments.verbose:
            raise
        stop(error)


def run_demo(arguments: DemoArguments) -> None:
    """Load the log, run every stage, serve, send feedback, and show what changed."""
    start = time.perf_counter()
    out = console()
    sample = load_complete_journey(num_weeks=None if arguments.full else arguments.weeks)
    folder = arguments.workspace / "input"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = [str(path) for path in write_sample(sample, folder)]
    out.print(
        f"log: {sample.name}, {sample.events.height:,} events, {sample.items.height:,} items, "
        f"{sample.events['user_id'].n_unique():,} users"
    )
    out.print(f"licence: {sample.licence}")
    with connect(PROFILES[DEMO.profile]):
        stages = run_stages(
            DEMO,
            arguments.workspace,
            name="demo",
            events=(paths[0],),
            items=(paths[1],),
            users=(paths[2],),
            resume=False,
        )
        print_summary({"stages": stages}, as_json=False)
        out.print(f"pipeline: {time.perf_counter() - start:.1f} s")
        _show_service(arguments, sample.events, sample.items)
    metrics = next(stage["metrics"] for stage in stages if "metrics" in stage)
    print_metrics(metrics)
    release = stages[-1]["outputs"]["releases"]
    report = stages[-2]["outputs"]["reports"]
    out.print(f"release: {release}")
    out.print(f"report:  {report}/report.html")
    out.print(f"next:    make serve   (or: nextray serve demo --workspace {arguments.workspace})")
    out.print("page:    http://127.0.0.1:8000/ while it serves; or: nextray demo --stay")
    out.print(f"demo: {time.perf_counter() - start:.1f} s, everything it started has stopped")


def _show_service(arguments: DemoArguments, events: pl.DataFrame, items: pl.DataFrame) -> None:
    from cluster.serve.app import serving  # 3 s that --help need not pay
    from cluster.serve.keys import ensure_admin_key

    key, is_new = ensure_admin_key(arguments.workspace)
    # On a terminal alone: what a job prints is kept in logs.
    if is_new and console().is_terminal:
        console().print(f"admin key, shown once: {key}", soft_wrap=True)
    profile = PROFILES[DEMO.profile]
    headers = {"Authorization": f"Bearer {key}"}
    begin = time.perf_counter()
    with (
        serving(arguments.workspace, profile=profile, port=arguments.port) as url,
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
    ):
        console().print(f"serving {url} after {time.perf_counter() - begin:.1f} s")
        _show_feedback(client, events, items)
        _time_feedback(client, events, items, rounds=arguments.rounds)
        if arguments.stay:
            user_id = _typical_user(events)
            # The key stays in the fragment, which no browser sends; the page takes it out at once.
            console().print(f"page: {url}/#key={key}&user={user_id}", soft_wrap=True)
            console().print("Ctrl-C stops")
            _wait_for_stop()


def _show_feedback(client: httpx.Client, events: pl.DataFrame, items: pl.DataFrame) -> None:
    """Show one user's last events, the list, feedback, and the list after it."""
    titles = dict(items.select("item_id", "title").iter_rows())
    user_id = _typical_user(events)
    last = events.filter(pl.col("user_id") == user_id).sort("timestamp").tail(5)
    console().print(f"\nuser {user_id}, last events:")
    for item_id, event_type in last.select("item_id", "event_type").iter_rows():
        console().print(f"  {event_type:<22} {titles.get(item_id, item_id)}")
    before = _list(client, user_id)
    choice = before["items"][2]
    begin = time.perf_counter()
    answer = client.post(
        "/v1/events",
        json={
            "events": [
                {
                    "user_id": user_id,
                    "item_id": choice["item_id"],
                    "event_type": "purchase",
                    "impression_id": before["impression_id"],
                }
            ]
        },
    )
    answer.raise_for_status()
    after = _list(client, user_id)
    elapsed_ms = (time.perf_counter() - begin) * 1000
    table = Table(title=f"user {user_id} buys: {choice['title']}", title_justify="left")
    for name in ("", "list before", "score", "list after", "score"):
        table.add_column(name, justify="right" if name in ("", "score") else "left")
    old = {item["item_id"] for item in before["items"]}
    for was, now in zip(before["items"], after["items"], strict=True):
        mark = "" if now["item_id"] in old else " *"
        table.add_row(
            str(was["position"]),
            was["title"],
            f"{was['score']:.3f}",
            now["title"] + mark,
            f"{now['score']:.3f}",
        )
    console().print(table)
    console().print(
        f"feedback sent, stored on disk and changed list received: {elapsed_ms:.1f} ms "
        "(* = was not in the list before)"
    )
    if [i["item_id"] for i in before["items"]] == [i["item_id"] for i in after["items"]]:
        raise RecError("the list did not change after feedback: look at the service's log")


def _time_feedback(
    client: httpx.Client, events: pl.DataFrame, items: pl.DataFrame, *, rounds: int
) -> None:
    """Time feedback to changed list over some users, one purchase each."""
    users = sorted(events["user_id"].unique().to_list())[:rounds]
    known = set(items["item_id"].to_list())
    times: list[float] = []
    changed = 0
    for user_id in users:
        before = [item["item_id"] for item in _list(client, user_id)["items"]]
        event = {"user_id": user_id, "item_id": before[0], "event_type": "purchase"}
        assert before[0] in known
        begin = time.perf_counter()
        client.post("/v1/events", json=[event]).raise_for_status()
        after = [item["item_id"] for item in _list(client, user_id)["items"]]
        times.append((time.perf_counter() - begin) * 1000)
        changed += before != after
    if times:
        ordered = sorted(times)
        p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
        console().print(
            f"{len(times)} more rounds: {changed} lists changed, feedback to changed list "
            f"p50 {statistics.median(times):.1f} ms, p99 {p99:.1f} ms\n"
        )


def _list(client: httpx.Client, user_id: str) -> dict[str, Any]:
    answer = client.post("/v1/recommend", json={"user_id": user_id, "k": 10})
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def _wait_for_stop() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _typical_user(events: pl.DataFrame) -> str:
    """Return the user whose number of events is the median; the smallest id among equals."""
    counts = events.group_by("user_id").len().sort("len", "user_id")
    return str(counts["user_id"][counts.height // 2])


if __name__ == "__main__":
    main()
