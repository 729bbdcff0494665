"""An index that shards hold: the graph gives the lists of one process, and says if a shard is away.

The real gateway, ranker and shards, without Ray between; ``make drills`` has them on Ray.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.resources import LAPTOP
from cluster.serve.app import MAX_INDEX_SHARDS, ServeArgs
from cluster.serve.calls import UnavailableError
from cluster.serve.index_shards import MAX_RELEASES, IndexShard, pack_query, unpack_query
from rec.errors import ConfigError
from rec.ranking.current import current_release
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from rec.ranking.retrieval.sharding import SHARD_UNAVAILABLE, PartQuery
from tests.cluster.graph import Graph, ids, running_graph
from tests.processes import wait_until
from tests.releases import NUM_ITEMS, copy_release, make_release

NUM_SHARDS = 3


class Away:
    """Be a shard that nobody reaches."""

    async def search(self, release: str, packed: bytes) -> Any:
        raise UnavailableError(f"no replica ({release}, {len(packed)} bytes)")


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    release = make_release(tmp_path)
    with running_graph(tmp_path, release, num_shards=NUM_SHARDS) as found:
        yield found


def ask(graph: Graph, **body: object) -> Any:
    return graph.good("POST", "/v1/recommend", json={"is_shown": False, **body})


def shards(graph: Graph) -> list[IndexShard]:
    return [handle.replicas[0] for handle in graph.shards]


def test_graph_over_shards_gives_the_lists_of_one_process(graph: Graph) -> None:
    recommender = Recommender.load(current_release(graph.workspace))
    log = graph.gateway.state.history
    for user in range(4):
        history = tuple(log.history(f"user-{user}", limit=100))
        for body, asked in (
            ({"k": 10}, Request(history=history, k=10)),
            (
                {"k": 5, "filters": {"category": ["dress", "lamp"]}, "exclude": ["item/1"]},
                Request(
                    history=history,
                    k=5,
                    filters={"category": ("dress", "lamp")},
                    exclude=frozenset({"item/1"}),
                ),
            ),
        ):
            queries = {
                e.query: graph.run(graph.encoder.encode([e.query]))[0] for e in history if e.query
            }
            [expected] = recommender.recommend([replace(asked, query_embeddings=queries)])
            found = ask(graph, user_id=f"user-{user}", **body)
            assert ids(found) == [item.item_id for item in expected.items]
            assert [item["score"] for item in found["items"]] == pytest.approx(
                [item.score for item in expected.items], abs=1e-6
            )
    # Every shard was asked, and holds its own stretch and no more.
    release = current_release(graph.workspace).name
    assert [len(shard._held[release]) for shard in shards(graph)] == [NUM_ITEMS // 3] * 3


def test_lost_shard_costs_no_item_and_is_told(graph: Graph) -> None:
    body = {"user_id": "user-2", "k": 20}

    def has_all_shards() -> bool:
        return SHARD_UNAVAILABLE not in ask(graph, **body)["degraded"]

    wait_until(has_all_shards, within_s=30, what="all shards answer in time")
    whole = ask(graph, **body)
    replica = graph.shards[1].replicas[0]
    graph.shards[1].replicas = [Away()]
    lacking = ask(graph, **body)
    assert ids(lacking) == ids(whole)
    assert SHARD_UNAVAILABLE in lacking["degraded"]
    similar = graph.good("GET", "/v1/items/item%2F5/similar")
    assert len(ids(similar)) == 10
    assert similar["degraded"] == [SHARD_UNAVAILABLE]
    graph.shards[1].replicas = [replica]
    wait_until(has_all_shards, within_s=30, what="the shard is asked again")
    assert ids(ask(graph, **body)) == ids(whole)


def test_live_items_stand_beside_the_shards(graph: Graph) -> None:
    body = {"title": "red dress", "category": ["novelty"]}
    assert graph.ask("PUT", "/v1/items/new", json=body).status_code == 200
    assert graph.ask("PUT", "/v1/items/item%2F8", json=body).status_code == 200
    assert graph.ask("DELETE", "/v1/items/item%2F9").status_code == 200
    asked = {"user_id": "user-1", "k": 5, "filters": {"category": ["novelty"]}}
    wait_until(
        lambda: set(ids(ask(graph, **asked))) == {"new", "item/8"},
        within_s=10,
        what="the new item is found",
    )
    everything = ids(ask(graph, k=100))
    assert len(everything) == NUM_ITEMS
    assert "item/9" not in everything


def test_shards_answer_for_the_release_that_is_named(graph: Graph) -> None:
    first = current_release(graph.workspace)
    query = PartQuery(
        users=torch.eye(16)[:1], k=5, excluded=torch.zeros((2, 0), dtype=torch.int64), allowed=None
    )
    shard = shards(graph)[0]
    names = [first.name]
    for number in range(MAX_RELEASES + 1):
        name = f"{number:016x}"
        copy_release(graph.workspace, name, penalty_weight=0.1)
        names.append(name)
    for name in names:
        items, scores = graph.run(shard.search(name, pack_query(query)))
        assert items.shape == scores.shape == (1, 5)
    assert list(shard._held) == names[-MAX_RELEASES:]


@pytest.mark.parametrize("shape", [None, (20,), (2, 20)])
def test_query_is_the_same_after_its_way(shape: tuple[int, ...] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query = PartQuery(
        users=torch.rand((2, 4), generator=generator),
        k=3,
        excluded=torch.tensor([[0, 1], [4, 20]]),
        allowed=None if shape is None else torch.rand(shape, generator=generator) < 0.5,
    )
    found = unpack_query(pack_query(query))
    assert torch.equal(found.users, query.users)
    assert torch.equal(found.excluded, query.excluded)
    assert found.k == query.k
    if query.allowed is None:
        assert found.allowed is None
    else:
        assert found.allowed is not None
        np.testing.assert_array_equal(found.allowed.numpy(), query.allowed.numpy())


def test_number_of_shards_is_bounded(tmp_path: Path) -> None:
    for number in (0, MAX_INDEX_SHARDS + 1):
        with pytest.raises(ConfigError, match="--index-shards must be in"):
            ServeArgs(workspace=tmp_path, release=tmp_path, profile=LAPTOP, index_shards=number)
