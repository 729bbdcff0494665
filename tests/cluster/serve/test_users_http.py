"""Access, export and erasure over HTTP, on the real graph in this process."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import ray

from cluster.serve.keys import add_key
from cluster.serve.routes import users
from rec.data.privacy import load_or_create_key, pseudonym
from rec.data.tombstones import load_tombstones, without_erased
from rec.ranking.feedback.event_log import LOG_FILE
from rec.stages.ingesting import ingest
from rec.stages.preparation import KEY_FILE
from tests.cluster.graph import Graph, running_graph
from tests.releases import make_release

USER = "a/lice"
PATH = "/v1/users/a%2Flice"


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    # A busy machine must not turn an answer into "look again".
    monkeypatch.setattr(users, "ERASED_WITHIN_S", 60.0)
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
    interests = held.pop("interests")
    assert held == {
        "user_id": USER,
        "events": 2,
        "impressions": 1,
        "history": 0,
        "first_ms": 1_700_000_100_000,
        "last_ms": 1_700_000_200_000,
    }
    assert interests["num_events"] == 2
    export = graph.good("GET", f"{PATH}/export")
    assert [event["query"] for event in export["events"]] == [None, "red lamp"]
    assert {event["user_id"] for event in export["events"]} == {USER}
    assert len(export["impressions"][0]["item_ids"]) == 10
    assert graph.good("GET", "/v1/users/nobody")["events"] == 0


def test_interests_are_those_of_the_history_in_either_language(graph: Graph) -> None:
    events = [
        {"user_id": USER, "item_id": item, "timestamp": 1_700_000_100 + n}
        for n, item in enumerate(["item/0", "item/10", "item/20", "item/3"])
    ]
    graph.good("POST", "/v1/events", json=[*events, {"user_id": USER, "query": "warm boots"}])
    en = graph.good("GET", PATH, params={"language": "en"})["interests"]
    zh = graph.good("GET", PATH, params={"language": "zh"})["interests"]
    assert en["text"] == (
        "Your 5 events are about “dress” (3 times) and “sofa” (once). You searched for "
        "“warm boots” (once)."
    )
    assert zh["text"].startswith("您的 5 次行为涉及“dress”（3 次）和“sofa”（1 次）。")
    assert en["interests"] == zh["interests"]
    first = en["interests"][0]
    assert (first["kind"], first["value"], first["num_events"]) == ("category", "dress", 3)
    assert not en["is_generated"]
    assert graph.good("GET", "/v1/users/nobody")["interests"]["interests"] == []
    assert graph.ask("GET", PATH, params={"language": "fr"}).status_code == 422


def test_what_is_held_is_told_without_the_ranker_too(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(graph)

    async def away(*_: object) -> None:
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(graph.rankers[0], "interests", away)
    held = graph.good("GET", PATH)
    assert (held["events"], held["interests"]) == (2, None)


def test_erasure_leaves_nothing_of_the_user_and_all_of_the_others(graph: Graph) -> None:
    fill(graph)
    receipt = graph.erase(USER)
    assert (receipt["events"], receipt["impressions"], receipt["state"]) == (2, 1, "done")
    assert receipt["receipt"]["left"] == []
    assert graph.good("GET", PATH)["events"] == 0
    assert graph.good("GET", "/v1/users/another")["events"] == 1
    stored = pseudonym(USER, load_or_create_key(graph.workspace / KEY_FILE)).encode()
    for file in graph.workspace.glob(f"{LOG_FILE}*"):
        assert stored not in file.read_bytes(), file
    again = graph.erase(USER)
    assert (again["events"], again["impressions"]) == (0, 0)
    assert again["erasure_id"] != receipt["erasure_id"]


def test_erasure_reaches_every_byte_of_the_workspace(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(graph)
    ingest(graph.workspace)
    stored = pseudonym(USER, load_or_create_key(graph.workspace / KEY_FILE))
    lists = graph.workspace / "lists.parquet"
    pl.DataFrame({"user_id": [USER, "another"], "item_id": ["a", "b"]}).write_parquet(lists)
    monkeypatch.setattr(users, "ERASED_WITHIN_S", 0.0)
    answer = graph.ask("DELETE", PATH)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "pending"
    final = graph.ended(answer.json())
    assert final["state"] == "done"
    assert set(final["receipt"]["files"]) >= {"lists.parquet"}
    assert final["receipt"]["left"] == []
    assert pl.read_parquet(lists)["user_id"].to_list() == ["another"]
    for path in graph.workspace.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert stored.encode() not in content, path
            assert USER.encode() not in content, path
            if path.suffix == ".parquet":
                frame = pl.read_parquet(path)
                names = frame["user_id"].to_list() if "user_id" in frame.columns else []
                assert not {stored, USER} & set(names), path


def test_erasure_that_nobody_asked_for_is_404(graph: Graph) -> None:
    assert graph.ask("GET", "/v1/erasures/0123456789abcdef").status_code == 404
    assert graph.ask("GET", "/v1/erasures/..%2Fcurrent").status_code in (404, 422)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/erasures/0123456789abcdef"),
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
    graph.erase(USER)
    key_path = graph.workspace / KEY_FILE
    key = load_or_create_key(key_path)
    rows = pl.DataFrame({"user_id": [pseudonym(USER, key), USER, pseudonym("another", key)]})
    left = without_erased(rows, tombstones=load_tombstones(graph.workspace), key_path=key_path)
    assert left["user_id"].to_list() == [pseudonym("another", key)]
