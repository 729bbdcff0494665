"""More requests than the queues hold: some are told to come again, none gets lost."""

import asyncio
import dataclasses
from collections import Counter
from pathlib import Path

import httpx
import pytest

from cluster.resources import LAPTOP
from cluster.runtime import free_port
from cluster.serve.app import serving
from cluster.serve.keys import ensure_admin_key
from tests.releases import make_release

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_REQUESTS = 60


@pytest.mark.usefixtures("ray_cluster")
def test_full_gateway_answers_503_with_retry_after(tmp_path: Path) -> None:
    make_release(tmp_path)
    key, _ = ensure_admin_key(tmp_path)
    one = {
        **LAPTOP.serve.gateway,
        "autoscaling_config": None,
        "num_replicas": 1,
        "max_ongoing_requests": 1,
        "max_queued_requests": 1,
    }
    profile = dataclasses.replace(LAPTOP, serve=dataclasses.replace(LAPTOP.serve, gateway=one))

    async def flood(url: str) -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=NUM_REQUESTS)
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=60, limits=limits
        ) as client:
            calls = (client.post("/v1/recommend", json={}) for _ in range(NUM_REQUESTS))
            return list(await asyncio.gather(*calls))

    with serving(tmp_path, profile=profile, port=free_port()) as url:
        answers = asyncio.run(flood(url))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503}, statuses
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["retry-after"] == "1", dict(answer.headers)
