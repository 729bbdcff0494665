"""A disk that is full: events are refused and never lost, lists go on, and all is well again."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.graph import Graph, running_graph
from tests.releases import make_release
from tests.small_disk import SmallDisk, small_disk

_COUNT = """
import sys
from pathlib import Path
from cluster.serve.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(200):
    metrics.count_request(f"/{number}", method="GET", status=200, seconds=0.01)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", size="12m") as found:
        yield found


@pytest.fixture
def graph(disk: SmallDisk) -> Iterator[Graph]:
    workspace = disk.path / "workspace"
    workspace.mkdir()
    with running_graph(workspace, make_release(workspace)) as found:
        yield found


def send(graph: Graph, number: int) -> httpx.Response:
    events = [
        {"user_id": "u", "item_id": "item/1", "event_id": f"{number}-{n}", "session_id": "s" * 100}
        for n in range(20)
    ]
    return graph.ask("POST", "/v1/events", json={"events": events})


def assert_full(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert "its disk is full, free some space" in answer.json()["detail"]


def test_full_disk_refuses_events_and_acknowledges_none_of_them(
    graph: Graph, disk: SmallDisk
) -> None:
    numbers = iter(range(10_000))
    acknowledged = [next(numbers)]
    assert send(graph, acknowledged[0]).status_code == 200
    disk.fill()
    refused: list[int] = []
    # What the write-ahead log has already taken of the disk is written first.
    while len(refused) < 3:
        number = next(numbers)
        answer = send(graph, number)
        if answer.status_code == 200:
            acknowledged.append(number)
        else:
            assert_full(answer)
            refused.append(number)
    assert_full(graph.ask("PUT", "/v1/items/new", json={"title": "red coat", "text": "x" * 5000}))
    listed = graph.good("POST", "/v1/recommend", json={"user_id": "u", "k": 5})
    assert len(listed["items"]) == 5
    assert "impression_not_logged" in listed["degraded"]
    assert graph.ask("GET", "/healthz").status_code == 200
    stored = [event.event_id for _, event in graph.gateway.state.log.read_after(0, 100_000)]
    assert sorted(stored) == sorted(f"{m}-{n}" for m in acknowledged for n in range(20))
    disk.free()
    again = send(graph, refused[0])
    assert again.json() == {"accepted": 20, "duplicates": 0, "rejected": []}
    assert graph.ask("PUT", "/v1/items/new", json={"title": "red coat"}).status_code == 200


@pytest.mark.parametrize("is_full_at_start", [False, True])
def test_full_disk_does_not_kill_a_process_that_counts(
    disk: SmallDisk, *, is_full_at_start: bool
) -> None:
    if is_full_at_start:
        disk.fill()
    command = [sys.executable, "-c", _COUNT, str(disk.path / "metrics")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if not is_full_at_start:
            disk.fill()
        process.communicate(b"go on", timeout=60)
    assert process.returncode == 0
