"""Promote and roll back while serving, on the real graph in this process."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rec.ranking.current import read_current
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from rec.stages.releasing import point_current
from tests.cluster.graph import Graph, ids, running_graph
from tests.releases import copy_release, make_release

OTHER = "0" * 16
NUM_ROUNDS = 4


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    release = make_release(tmp_path)
    copy_release(tmp_path, OTHER, penalty_weight=3.0)
    with running_graph(tmp_path, release, num_rankers=2) as found:
        yield found


def until(is_so: Callable[[], bool], *, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lists_of(graph: Graph, name: str) -> list[str]:
    ours = Recommender.load(graph.workspace / "releases" / name)
    events = graph.gateway.state.history.history("user-1", limit=1000)
    embedded = {"red dress": graph.run(graph.encoder.encode(["red dress"]))[0]}
    request = Request(history=tuple(events), query_embeddings=embedded)
    return [item.item_id for item in ours.recommend([request])[0].items]


def test_no_request_fails_and_no_list_is_mixed_while_releases_change(graph: Graph) -> None:
    first = graph.good("GET", "/v1/release")["release"]
    expected = {name: lists_of(graph, name) for name in (first, OTHER)}
    assert expected[first] != expected[OTHER]
    stop = asyncio.Event()
    answers: list[httpx.Response] = []

    async def load() -> None:
        while not stop.is_set():
            answers.append(
                await graph.send("POST", "/v1/recommend", json={"user_id": "user-1", "k": 10})
            )
            await asyncio.sleep(0.002)

    running = [asyncio.run_coroutine_threadsafe(load(), graph.loop) for _ in range(4)]
    until(lambda: bool(answers))
    for _ in range(NUM_ROUNDS):
        switched = graph.good("POST", "/v1/release/promote", json={"release": OTHER})
        assert switched == {"release": OTHER, "previous": first}
        assert graph.good("GET", "/v1/release")["release"] == OTHER
        assert graph.good("POST", "/v1/release/rollback")["release"] == first
    graph.good("POST", "/v1/release/promote", json={"release": OTHER})
    until(lambda: answers[-1].json()["release"] == OTHER)
    graph.loop.call_soon_threadsafe(stop.set)
    for one in running:
        one.result(timeout=30)
    assert {answer.status_code for answer in answers} == {200}
    seen = Counter(answer.json()["release"] for answer in answers)
    assert set(seen) == {first, OTHER}
    # On a machine that does other work a deadline may pass: such a list says so, and counts not.
    whole = [body for body in (answer.json() for answer in answers) if not body["degraded"]]
    assert {body["release"] for body in whole} == {first, OTHER}
    for body in whole:
        assert ids(body) == expected[body["release"]]
    logged = graph.gateway.state.log.read_impressions(limit=100_000)
    assert {shown.impression_id: shown.release for shown in logged}.items() >= {
        body["impression_id"]: body["release"] for body in whole
    }.items()


def test_promotion_by_a_job_is_followed(graph: Graph) -> None:
    point_current(graph.workspace, OTHER)
    until(lambda: graph.good("GET", "/v1/release")["release"] == OTHER)
    until(lambda: graph.good("POST", "/v1/recommend", json={})["release"] == OTHER)


@pytest.mark.parametrize("how", ["changed", "missing", "encoder", "absent"])
def test_release_that_cannot_serve_is_refused_and_the_old_one_goes_on(
    graph: Graph, how: str
) -> None:
    first = graph.good("GET", "/v1/release")["release"]
    folder = graph.workspace / "releases" / OTHER
    if how == "changed":
        with (folder / "embeddings.safetensors").open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(b"\x7f")
    elif how == "missing":
        (folder / "model.safetensors").unlink()
    elif how == "encoder":
        shutil.rmtree(folder)
        copy_release(graph.workspace, OTHER, penalty_weight=3.0, fingerprint="another")
    else:
        shutil.rmtree(folder)
    answer = graph.ask("POST", "/v1/release/promote", json={"release": OTHER})
    assert answer.status_code == 409, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert read_current(graph.workspace)["release"] == first
    # A job does not look at the encoder that runs, nor does a hand that writes the pointer.
    point_current(graph.workspace, OTHER)
    until(lambda: graph.gateway.state.releases._refused == OTHER)
    until(lambda: all(ranker._followed._refused == OTHER for ranker in graph.rankers))
    assert graph.good("POST", "/v1/recommend", json={})["release"] == first
    with running_graph(graph.workspace, graph.workspace / "releases" / first) as again:
        assert again.good("POST", "/v1/recommend", json={})["release"] == first


@pytest.mark.parametrize(
    ("body", "status"),
    [({"release": "../../etc"}, 422), ({"name": OTHER}, 422), ({"release": "f" * 16}, 409)],
)
def test_release_that_is_no_name_is_refused(graph: Graph, body: Any, status: int) -> None:
    assert graph.ask("POST", "/v1/release/promote", json=body).status_code == status


def test_nothing_to_roll_back_to_or_to_promote_is_said(graph: Graph) -> None:
    assert graph.ask("POST", "/v1/release/rollback").status_code == 409
    answer = graph.ask("POST", "/v1/release/promote")
    assert answer.status_code == 409
    assert "evaluate" in answer.json()["detail"]
