"""A profile that comes along, or that the users' file has, chooses a new user's segment."""

import json
from collections.abc import Iterator

import polars as pl
import pytest

from rec.artifacts import file_sha256, write_artifact, write_json
from rec.models.segments import SEGMENT_SCHEMA
from rec.ranking.release import SEGMENTS_FILE
from rec.stages.catalog import USERS_FILE
from tests.cluster.graph import Graph, ids, running_graph
from tests.releases import make_release

OWN = {f"item/{n}" for n in range(20, 30)}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    workspace = tmp_path_factory.mktemp("profiles")
    release = make_release(workspace)
    with write_artifact(workspace, "catalog", config={}, parents={}) as draft:
        pl.DataFrame({"user_id": ["new-1", "user-1"], "band": ["old", "old"]}).write_parquet(
            draft.path / USERS_FILE
        )
    lifts = [(0, 0.01), *((n + 1, 100.0) for n in range(20, 30))]
    rows = [("band", "old", 20, item, lift, 1.0) for item, lift in lifts]
    pl.DataFrame(rows, schema=SEGMENT_SCHEMA, orient="row").write_parquet(release / SEGMENTS_FILE)
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["parents"]["catalog"] = (workspace / "catalog" / "latest").read_text().strip()
    path = release / SEGMENTS_FILE
    manifest["files"][SEGMENTS_FILE] = {
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
    }
    write_json(release / "manifest.json", manifest)
    with running_graph(workspace, release) as running:
        yield running


def recommend(graph: Graph, **body: object) -> dict[str, object]:
    answer: dict[str, object] = graph.good("POST", "/v1/recommend", json={"k": 3, **body})
    return answer


def test_profile_of_a_new_user_changes_the_list(graph: Graph) -> None:
    anyone = recommend(graph)
    old = recommend(graph, profile={"band": "old"}, explain=True, language="zh")
    assert set(ids(old)) <= OWN
    assert ids(anyone) != ids(old)
    assert old["items"][0]["source"] == "segment"  # type: ignore[index]
    assert old["items"][0]["explanation"]["text"] == "受与您相似的用户欢迎。"  # type: ignore[index]
    unknown = recommend(graph, profile={"band": "ageless", "vip": True})
    assert unknown["degraded"] == ["profile_unknown"]
    assert ids(unknown) == ids(anyone)


def test_stored_profile_is_used_and_one_that_comes_along_is_over_it(graph: Graph) -> None:
    assert set(ids(recommend(graph, user_id="new-1"))) <= OWN
    over = recommend(graph, user_id="new-1", profile={"band": "ageless"})
    assert ids(over) == ids(recommend(graph))


def test_profile_of_a_user_with_events_changes_nothing(graph: Graph) -> None:
    plain = recommend(graph, user_id="user-1")
    assert {item["source"] for item in plain["items"]} == {"sequence"}  # type: ignore[attr-defined]
    assert ids(recommend(graph, user_id="user-1", profile={"band": "old"})) == ids(plain)


def test_erased_user_loses_the_profile(graph: Graph) -> None:
    assert set(ids(recommend(graph, user_id="new-1"))) <= OWN
    graph.erase("new-1")
    assert ids(recommend(graph, user_id="new-1")) == ids(recommend(graph))


def test_profile_is_checked_at_the_border(graph: Graph) -> None:
    for bad in ({"band": ["old"]}, {"": "old"}, {"band": None}, "old"):
        answer = graph.ask("POST", "/v1/recommend", json={"profile": bad})
        assert answer.status_code == 422
