"""An index in two parts on real replicas: one process's lists, and one shard killed under load.

Run by ``make drills``; prints how many lists there were, failed, and were made without a shard.
"""

from collections import Counter
from pathlib import Path

import httpx
import pytest

from cluster.runtime import free_port
from cluster.serve.keys import ensure_admin_key
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from rec.ranking.retrieval.sharding import SHARD_UNAVAILABLE
from tests.chaos.figures import show
from tests.chaos.test_serving import HEALTHY_WITHIN_S, replicas, service
from tests.processes import kill, wait_until
from tests.releases import make_release

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ITEMS = [f"item/{number}" for number in range(12)]
NUM_AFTER = 200
"""Lists in a row from all shards: they end the drill."""


def test_shards_on_ray_give_one_process_s_lists_and_a_killed_one_costs_none(tmp_path: Path) -> None:
    release = make_release(tmp_path)
    key, _ = ensure_admin_key(tmp_path)
    port = free_port()
    recommender = Recommender.load(release)
    with (
        service(tmp_path, port, "--index-shards", "2") as process,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        ) as client,
    ):

        def ask(number: int, **body: object) -> tuple[list[str], list[str]]:
            events = [{"item_id": ITEMS[number % 12]}, {"item_id": ITEMS[(number * 5 + 1) % 12]}]
            answer = client.post("/v1/recommend", json={"events": events, "k": 10, **body})
            assert answer.status_code == 200, answer.text
            found = answer.json()
            return [item["item_id"] for item in found["items"]], found["degraded"]

        assert replicas(process.pid, "IndexShard0")
        assert replicas(process.pid, "IndexShard1")
        # Nobody in particular, without events: what one process says of it.
        for filters in ({}, {"category": ["dress", "lamp"]}):
            answer = client.post("/v1/recommend", json={"k": 10, "filters": filters}).json()
            asked = Request(k=10, filters={name: tuple(value) for name, value in filters.items()})
            [expected] = recommender.recommend([asked])
            assert [item["item_id"] for item in answer["items"]] == [
                item.item_id for item in expected.items
            ]
        whole = [ask(number) for number in range(12)]
        assert {tuple(degraded) for _, degraded in whole} == {()}
        old = replicas(process.pid, "IndexShard1")
        for pid in old:
            kill(pid)
        outcomes: Counter[str] = Counter()
        in_a_row = 0

        def goes_on() -> bool:
            nonlocal in_a_row
            number = outcomes.total() % 12
            items, degraded = ask(number)
            assert items == whole[number][0], degraded
            assert set(degraded) <= {SHARD_UNAVAILABLE}
            outcomes["without the shard" if degraded else "from all shards"] += 1
            in_a_row = 0 if degraded else in_a_row + 1
            return in_a_row >= NUM_AFTER and bool(replicas(process.pid, "IndexShard1") - old)

        wait_until(goes_on, within_s=HEALTHY_WITHIN_S, what="a new shard answers")
    show("index shard killed", lists=outcomes.total(), other_lists=0, failed=0, **outcomes)
    assert outcomes["without the shard"] > 0
