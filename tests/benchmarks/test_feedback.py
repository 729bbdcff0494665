"""How long from a purchase to the changed list: ``make bench``.

Each round asks for a user's list, sends the purchase of its first item, and asks again. The clock
runs from the moment the event is sent until the second list is there; the event is durable by then.
"""

import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from rich.console import Console
from rich.table import Table

from cluster.resources import LAPTOP
from cluster.runtime import free_port
from cluster.serve.app import serving
from cluster.serve.keys import ensure_admin_key
from jobs import pipeline
from rec.artifacts import write_json
from rec.data.items import load_items
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.ranking.current import current_release

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

NUM_ROUNDS = 200
K = 10
EVENTS_OF_A_NEW_USER = 10


@pytest.fixture(scope="module")
def workspace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace that may be written to, with a release of the laptop recipe."""
    given: Path | None = request.config.getoption("--workspace")
    folder = tmp_path_factory.mktemp("bench") / "workspace"
    if given is None:
        files = write_shop(make_shop(ShopConfig()), folder / "input")
        pipeline.main(
            [
                *("laptop", "--events", str(files[0]), "--items", str(files[1])),
                *("--workspace", str(folder)),
            ]
        )
        return folder
    # The purchases of a benchmark are not the shop's: its own event log is left alone.
    folder.mkdir()
    for name in ("releases", "sequences", "input"):
        if (given / name).is_dir():
            (folder / name).symlink_to((given / name).resolve())
    for name in ("current", "pseudonym.key"):
        if (given / name).is_file():
            shutil.copy2(given / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def client(ray_cluster: None, workspace: Path) -> Iterator[httpx.Client]:  # noqa: ARG001
    key, _ = ensure_admin_key(workspace)
    headers = {"Authorization": f"Bearer {key}"}
    port = free_port()
    with (
        serving(workspace, profile=LAPTOP, port=port) as url,
        httpx.Client(base_url=url, headers=headers, timeout=30) as found,
    ):
        yield found


def users_of(workspace: Path, client: httpx.Client) -> list[str]:
    """Return users of the log where it lies beside the release, else new ones with some events."""
    log = workspace / "input" / "events.parquet"
    if log.is_file():
        return sorted(pl.read_parquet(log)["user_id"].cast(pl.String).unique().to_list())
    items = load_items(current_release(workspace))["item_id"].to_list()
    users = [f"bench-{number}" for number in range(NUM_ROUNDS)]
    for number, user in enumerate(users):
        events = [
            {"user_id": user, "item_id": items[(number * EVENTS_OF_A_NEW_USER + n) % len(items)]}
            for n in range(EVENTS_OF_A_NEW_USER)
        ]
        client.post("/v1/events", json=events).raise_for_status()
    return users


def item_ids(client: httpx.Client, user: str) -> list[str]:
    answer = client.get(f"/v1/users/{user}/recommendations", params={"k": K})
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    assert body["degraded"] == []
    return [item["item_id"] for item in body["items"]]


def test_feedback_to_changed_list(
    workspace: Path, client: httpx.Client, request: pytest.FixtureRequest
) -> None:
    users = users_of(workspace, client)
    times_ms: list[float] = []
    loads: list[float] = []
    for number in range(NUM_ROUNDS):
        user = users[number % len(users)]
        before = item_ids(client, user)
        event = {"user_id": user, "item_id": before[0], "event_type": "purchase"}
        start = time.perf_counter()
        answer = client.post("/v1/events", json=[event])
        after = item_ids(client, user)
        elapsed_ms = 1000 * (time.perf_counter() - start)
        assert answer.json()["accepted"] == 1, answer.text
        if after != before:
            times_ms.append(elapsed_ms)
        loads.append(os.getloadavg()[0])
    figures = {
        "benchmark": "feedback",
        "rounds": NUM_ROUNDS,
        "changed": len(times_ms),
        "p50_ms": round(statistics.median(times_ms), 2),
        "p99_ms": round(statistics.quantiles(times_ms, n=100)[98], 2),
        "load_average": round(statistics.mean(loads), 2),
        "cores": os.cpu_count(),
        "release": current_release(workspace).name,
        "items": load_items(current_release(workspace)).height,
        "python": platform.python_version(),
    }
    path = request.config.getoption("--figures") / "feedback.json"
    write_json(path, figures)
    show(figures, path)
    assert json.loads(path.read_text(encoding="utf-8"))["changed"] == NUM_ROUNDS


def show(figures: dict[str, Any], path: Path) -> None:
    shown = ("rounds", "changed", "p50_ms", "p99_ms", "load_average", "cores", "items")
    table = Table(title="feedback POST to changed list", title_justify="left")
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(str(figures[name]) for name in shown))
    console = Console(stderr=True)
    console.print(table)
    console.print(f"written: {path}", soft_wrap=True)
