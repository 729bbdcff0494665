"""The whole serving graph on real Ray, over a real Redis server that dies and comes back."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.resources import LAPTOP
from cluster.runtime import free_port
from cluster.serve.app import serving
from cluster.serve.keys import ensure_admin_key
from rec.ranking.feedback.event_log import LOG_FILE
from rec.stages.moving_feedback import use_store
from tests.processes import wait_until
from tests.redis_server import needs_redis, running_redis
from tests.releases import make_release

pytestmark = [pytest.mark.ray, needs_redis]


def test_graph_learns_refuses_and_recovers_with_its_server(
    ray_cluster: None,  # noqa: ARG001 - Serve runs on it
    tmp_path: Path,
) -> None:
    workspace = tmp_path / "workspace"
    make_release(workspace)
    key, _ = ensure_admin_key(workspace)
    with running_redis(tmp_path / "redis") as server:
        use_store(workspace, server.url)
        headers = {"Authorization": f"Bearer {key}"}
        with (
            serving(workspace, profile=LAPTOP, port=free_port()) as url,
            httpx.Client(base_url=url, headers=headers, timeout=30) as client,
        ):

            def send(number: int) -> httpx.Response:
                event = {"user_id": "ann", "item_id": f"item/{number}", "event_id": f"e{number}"}
                return client.post("/v1/events", json=[event])

            def ask() -> Any:
                answer = client.post("/v1/recommend", json={"user_id": "ann"})
                assert answer.status_code == 200, answer.text
                return answer.json()

            before = ask()
            assert before["degraded"] == []
            seen = before["items"][0]["item_id"]
            assert send(int(seen.split("/")[1])).json()["accepted"] == 1
            after = ask()
            assert after["degraded"] == []
            assert seen not in [item["item_id"] for item in after["items"]]
            # The base came out of the release's sequences.
            assert len(client.get("/v1/users/user-0/history").json()["events"]) == 6

            server.kill()
            refused = send(7)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            lacking = ask()
            assert set(lacking["degraded"]) == {"history_unavailable", "impression_not_logged"}
            server.start()
            wait_until(lambda: not ask()["degraded"], within_s=10, what="a whole list again")
            counts = send(7).json()
            assert counts["accepted"] + counts["duplicates"] == 1
            assert client.get("/v1/users/ann").json()["events"] == 2
    assert not list(workspace.glob(f"{LOG_FILE}*"))
