"""A canary beside the promoted release, on the real graph in this process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs import rollback
from rec.client.results import read_release
from rec.errors import ArtifactError, ConfigError
from rec.ranking.current import read_current
from rec.stages.releasing import start_canary
from tests.cluster.graph import Graph, ids, running_graph
from tests.cluster.serve.test_releases_http import OTHER, until
from tests.releases import copy_release, make_release

USERS = [f"visitor-{number}" for number in range(60)]


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    release = make_release(tmp_path)
    copy_release(tmp_path, OTHER, penalty_weight=3.0)
    with running_graph(tmp_path, release, num_rankers=2) as found:
        yield found


def lists(graph: Graph) -> dict[str, Any]:
    """Return every user's list once all replicas have heard of what is current."""
    for ranker in graph.rankers:
        ranker._followed.poll()
    return {user: graph.good("POST", "/v1/recommend", json={"user_id": user}) for user in USERS}


def who(answers: dict[str, Any], release: str) -> set[str]:
    return {user for user, answer in answers.items() if answer["release"] == release}


def go_out(graph: Graph, share: float) -> Any:
    return graph.good("POST", "/v1/release/promote", json={"release": OTHER, "canary": share})


def test_a_share_of_the_users_gets_the_canary_until_it_is_promoted(graph: Graph) -> None:
    first = graph.good("GET", "/v1/release")["release"]
    before = lists(graph)
    canary = {"release": OTHER, "share": 0.3}
    assert go_out(graph, 0.3) == {"release": first, "previous": first, "canary": canary}
    assert graph.good("GET", "/v1/release")["canary"] == canary
    told = read_release(graph.good("GET", "/v1/release")).canary
    assert told is not None
    assert (told.release, told.share) == (OTHER, 0.3)
    beside = lists(graph)
    chosen = who(beside, OTHER)
    assert 8 <= len(chosen) <= 30
    assert who(beside, first) == set(USERS) - chosen
    # Nobody knows these users: each release has one list for them.
    assert len({tuple(ids(beside[user])) for user in chosen}) == 1
    assert ids(beside[min(chosen)]) != ids(before[min(chosen)])
    for user in set(USERS) - chosen:
        assert ids(beside[user]) == ids(before[user])
    assert graph.good("POST", "/v1/recommend", json={})["release"] == first
    found = {
        user: graph.good("POST", "/v1/search", json={"query": "red dress", "user_id": user})
        for user in USERS[:20]
    }
    assert who(found, OTHER) == chosen & set(USERS[:20])
    go_out(graph, 0.7)
    assert who(lists(graph), OTHER) > chosen
    # Without a name it is the canary that is promoted: it answers everybody.
    assert graph.good("POST", "/v1/release/promote") == {"release": OTHER, "previous": first}
    assert who(lists(graph), OTHER) == set(USERS)
    assert "canary" not in graph.good("GET", "/v1/release")
    assert graph.good("POST", "/v1/release/rollback")["release"] == first


def test_rollback_ends_the_canary_and_leaves_the_release(graph: Graph) -> None:
    first = graph.good("GET", "/v1/release")["release"]
    go_out(graph, 0.5)
    assert graph.good("POST", "/v1/release/rollback") == {"release": first, "previous": first}
    assert who(lists(graph), first) == set(USERS)
    assert read_current(graph.workspace) == {"release": first, "previous": []}
    chosen = []
    for _ in range(2):
        # Another canary meets other users; a job may send it out and call it back.
        start_canary(graph.workspace, OTHER, share=0.5)
        until(lambda: "canary" in graph.good("GET", "/v1/release"))
        chosen.append(who(lists(graph), OTHER))
        rollback.main(["laptop", "--workspace", str(graph.workspace)])
        until(lambda: "canary" not in graph.good("GET", "/v1/release"))
    assert chosen[0] != chosen[1]


def test_each_release_counts_its_own(graph: Graph) -> None:
    first = graph.good("GET", "/v1/release")["release"]
    go_out(graph, 0.5)
    answers = lists(graph)
    clicks = [
        {
            "user_id": user,
            "item_id": answer["items"][0]["item_id"],
            "impression_id": answer["impression_id"],
        }
        for user, answer in answers.items()
        if answer["release"] == OTHER
    ]
    graph.good("POST", "/v1/events", json=clicks)
    graph.run(graph.gateway.state.settle())
    text = graph.ask("GET", "/metrics").text
    found = {
        (sample.name, sample.labels.get("release")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }
    assert found["nextray_impressions_total", OTHER] == len(clicks)
    assert found["nextray_impressions_total", first] == len(USERS) - len(clicks)
    assert found["nextray_list_duration_seconds_count", OTHER] == len(clicks)
    assert found["nextray_impression_events_total", OTHER] == len(clicks)
    assert ("nextray_impression_events_total", first) not in found
    assert found["nextray_canary_ratio", OTHER] == 0.5


def test_replica_that_starts_later_knows_the_canary(graph: Graph) -> None:
    go_out(graph, 0.5)
    chosen = who(lists(graph), OTHER)
    with running_graph(
        graph.workspace, graph.workspace / "releases" / read_current(graph.workspace)["release"]
    ) as later:
        assert who(lists(later), OTHER) == chosen


@pytest.mark.parametrize("how", ["changed", "unreadable"])
def test_canary_that_cannot_serve_is_refused(graph: Graph, how: str) -> None:
    first = graph.good("GET", "/v1/release")["release"]
    if how == "changed":
        with (graph.workspace / "releases" / OTHER / "items.parquet").open("ab") as stream:
            stream.write(b"x")
        body = {"release": OTHER, "canary": 0.5}
        assert graph.ask("POST", "/v1/release/promote", json=body).status_code == 409
        assert "canary" not in read_current(graph.workspace)
        start_canary(graph.workspace, OTHER, share=0.5)
    else:
        pointer = {**read_current(graph.workspace), "canary": {"release": OTHER}}
        (graph.workspace / "current").write_text(json.dumps(pointer))
    until(lambda: graph.gateway.state.releases._refused_canary is not None)
    assert who(lists(graph), first) == set(USERS)


@pytest.mark.parametrize("share", [0.0, 1.0, -1, "half", float("nan")])
def test_share_that_is_none_is_refused(graph: Graph, share: Any) -> None:
    content = json.dumps({"release": OTHER, "canary": share})
    answer = graph.ask("POST", "/v1/release/promote", content=content)
    assert answer.status_code == 422
    if not isinstance(share, str):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            start_canary(graph.workspace, OTHER, share=share)


def test_canary_needs_another_release_beside_it(graph: Graph) -> None:
    first = read_current(graph.workspace)["release"]
    body = {"release": first, "canary": 0.5}
    assert graph.ask("POST", "/v1/release/promote", json=body).status_code == 409
    with pytest.raises(ArtifactError, match="beside another"):
        start_canary(graph.workspace, first, share=0.5)
