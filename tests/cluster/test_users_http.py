"""Access, export and erasure over HTTP, on the real graph in this process."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from cluster.serve.keys import add_key
from rec.data.privacy import load_or_create_key, pseudonym
from rec.data.tombstones import load_tombstones, without_erased
from rec.ranking.event_log import LOG_FILE
from rec.stages.preparation import KEY_FILE
from tests.cluster.graph import Graph, running_graph
from tests.releases import make_release

USER = "a/lice"
PATH = "/v1/users/a%2Flice"


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    release = make_release(tmp_path, is_pseudonymized=True)
    with running_graph(tmp_path, release) as found:
        yield found


def fill(graph: Graph) -> None:
    events = [
        {"user_id": USER, "item_id": "item/3", "timestamp": 1_700_000_100},
        {"user_id": USER, "query": "red lamp", "timestamp": 1_700_000_200},
        {"user_id": "another", "item_id": "item/3", "timestamp": 1_700_000_300},
    ]
    assert graph.good("POST", "/v1/events", json=events)["accepted"] == 3
    graph.good("POST", "/v1/recommend", json={"user_id": USER})


def test_what_is_held_is_counted_and_exported_under_the_given_id(graph: Graph) -> None:
    fill(graph)
    held = graph.good("GET", PATH)
    assert held == {
        "user_id": USER,
        "events": 2,
        "impressions": 1,
        "history": 0,
        "first_ms": 1_700_000_100_000,
        "last_ms": 1_700_000_200_000,
    }
    export = graph.good("GET", f"{PATH}/export")
    assert [event["query"] for event in export["events"]] == [None, "red lamp"]
    assert {event["user_id"] for event in export["events"]} == {USER}
    assert len(export["impressions"][0]["item_ids"]) == 10
    assert graph.good("GET", "/v1/users/nobody")["events"] == 0


def test_erasure_leaves_nothing_of_the_user_and_all_of_the_others(graph: Graph) -> None:
    fill(graph)
    receipt = graph.good("DELETE", PATH)
    assert (receipt["events"], receipt["impressions"]) == (2, 1)
    assert "nextray erase" in receipt["not_covered"]
    assert graph.good("GET", PATH)["events"] == 0
    assert graph.good("GET", "/v1/users/another")["events"] == 1
    stored = pseudonym(USER, load_or_create_key(graph.workspace / KEY_FILE)).encode()
    for file in graph.workspace.glob(f"{LOG_FILE}*"):
        assert stored not in file.read_bytes(), file
    again = graph.good("DELETE", PATH)
    assert (again["events"], again["impressions"]) == (0, 0)
    assert again["receipt_id"] != receipt["receipt_id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PATH),
        ("GET", f"{PATH}/export"),
        ("DELETE", PATH),
        ("DELETE", "/v1/users/a/recommendations"),
        ("DELETE", "/v1/users/a%2Frecommendations"),
    ],
)
def test_what_is_held_of_a_person_needs_an_admin_key(graph: Graph, method: str, path: str) -> None:
    writer = add_key(graph.workspace, name="web", scope="write")
    assert graph.ask(method, path, key=writer).status_code == 403
    assert graph.ask("GET", f"{PATH}/recommendations", key=writer).status_code == 200


def test_an_erased_user_stays_out_of_the_next_preparation(graph: Graph) -> None:
    fill(graph)
    graph.good("DELETE", PATH)
    key_path = graph.workspace / KEY_FILE
    key = load_or_create_key(key_path)
    rows = pl.DataFrame({"user_id": [pseudonym(USER, key), USER, pseudonym("another", key)]})
    left = without_erased(rows, tombstones=load_tombstones(graph.workspace), key_path=key_path)
    assert left["user_id"].to_list() == [pseudonym("another", key)]
