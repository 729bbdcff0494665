"""What was shown in vain loses, on every replica; a click starts the count anew."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.serve.gateway import Gateway
from rec.ranking.release import RankingConfig
from tests.cluster.graph import Graph, Handle, ids, running_graph
from tests.releases import make_release

TIRES = RankingConfig(repetition_weight=0.5, exclude_seen=False)


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    release = make_release(tmp_path, ranking=TIRES)
    with running_graph(tmp_path, release, num_rankers=2) as running:
        yield running


def ask_other_replica(graph: Graph, user_id: str) -> list[str]:
    """Ask a second gateway over the same workspace, with rankers of its own order."""
    gateway = Gateway(
        Handle(graph.encoder),
        Handle(*reversed(graph.rankers)),
        str(graph.workspace),
        str(graph.gateway.state.workspace / "releases" / graph.gateway.state.release.name),
    )

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=gateway.__serve_build_asgi_app__())
        headers = {"Authorization": f"Bearer {graph.key}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            return await client.post("/v1/recommend", json={"user_id": user_id, "k": 1})

    try:
        return ids(graph.run(send()).json())
    finally:
        gateway.state.close()


def test_item_shown_in_vain_loses_and_a_click_starts_its_count_anew(graph: Graph) -> None:
    def top(user_id: str = "user-1") -> str:
        return ids(graph.good("POST", "/v1/recommend", json={"user_id": user_id, "k": 1}))[0]

    first = top()
    # 0.5 for the first vain list, more than any two neighbours of this catalog lie apart.
    second = top()
    assert second != first
    assert ask_other_replica(graph, "user-1") not in ([first], [second])

    def terms(item_id: str) -> dict[str, float]:
        whole = graph.good("POST", "/v1/recommend", json={"user_id": "user-1", "k": 60})
        found: dict[str, float] = next(
            item["terms"] for item in whole["items"] if item["item_id"] == item_id
        )
        return found

    # log2(1 + n) of one list, then of two; the whole list above counted as well.
    assert terms(first)["repetition_penalty"] == pytest.approx(1.0)
    assert terms(first)["repetition_penalty"] == pytest.approx(1.585, abs=1e-3)
    click = {"user_id": "user-1", "item_id": first, "event_type": "click"}
    assert graph.good("POST", "/v1/events", json={"events": [click]})["accepted"] == 1
    # Its own count is 0 again; a click that took nothing is one look (seen and not bought).
    assert terms(first)["repetition_penalty"] == pytest.approx(1.0)


def test_release_without_the_term_reads_no_impressions(tmp_path: Path) -> None:
    release = make_release(tmp_path)
    with running_graph(tmp_path, release) as running:
        lists = [
            running.good("POST", "/v1/recommend", json={"user_id": "user-1"}) for _ in range(3)
        ]
    assert len({tuple(ids(answer)) for answer in lists}) == 1
    assert all("shown" not in answer["timings_ms"] for answer in lists)


def test_impressions_that_cannot_be_read_are_named(graph: Graph) -> None:
    connection = graph.gateway.state.log.connection()
    connection.execute("ALTER TABLE impressions RENAME TO away")
    answer = graph.good("POST", "/v1/recommend", json={"user_id": "user-1"})
    assert "impressions_unavailable" in answer["degraded"]
    assert len(answer["items"]) == 10
