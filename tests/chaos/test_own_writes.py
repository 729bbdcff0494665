"""A thousand users read what they have just written, whichever replica they meet.

Run by ``make drills``. Two gateways, two rankers; who was asked is read from their own counters.
"""

import dataclasses
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.mmap_dict import MmapedDict

from cluster.resources import LAPTOP, Profile
from cluster.runtime import free_port
from cluster.serve.app import serving
from cluster.serve.keys import ensure_admin_key
from cluster.serve.metrics import FOLDER
from tests.chaos.figures import show
from tests.releases import make_release

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_USERS = 1_000
NUM_CLIENTS = 8
READS = 4
"""After a write; with two gateways each of them is met by 15 in 16 users."""
K = 10


def twofold() -> Profile:
    """Return a graph of two replicas each."""
    two = {"autoscaling_config": None, "num_replicas": 2}
    serve = LAPTOP.serve
    made = {name: {**getattr(serve, name), **two} for name in ("gateway", "encoder", "ranker")}
    return dataclasses.replace(LAPTOP, serve=dataclasses.replace(serve, **made))


@pytest.mark.usefixtures("ray_cluster")
def test_next_list_of_every_user_reflects_the_last_event_on_every_replica(tmp_path: Path) -> None:
    make_release(tmp_path)
    key, _ = ensure_admin_key(tmp_path)
    stale: Counter[str] = Counter()

    def write_and_read(number: int) -> int:
        user = f"new-user-{number}"
        with httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60
        ) as client:

            def listed() -> list[str]:
                answer = client.post("/v1/recommend", json={"user_id": user, "k": K})
                assert answer.status_code == 200, answer.text
                return [item["item_id"] for item in answer.json()["items"]]

            seen = listed()[number % K]
            answer = client.post("/v1/events", json=[{"user_id": user, "item_id": seen}])
            assert answer.json()["accepted"] == 1, answer.text
            # What a user has just looked at is not recommended again.
            found = [seen in listed() for _ in range(READS)]
        stale["users"] += any(found)
        stale["reads"] += sum(found)
        return len(found)

    with serving(tmp_path, profile=twofold(), port=free_port()) as url:
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            reads = sum(pool.map(write_and_read, range(NUM_USERS)))
        gateways = asked(tmp_path, "nextray_requests_total", "/v1/recommend")
        rankers = asked(tmp_path, "nextray_batch_size_requests_sum", "Ranker")
    show(
        "own writes",
        users=NUM_USERS,
        reads=reads,
        stale_reads=stale["reads"],
        share=1 - stale["users"] / NUM_USERS,
        lists_by_gateway=gateways,
        lists_by_ranker=rankers,
    )
    assert min(len(gateways), len(rankers)) >= 2
    assert min(gateways) > reads / 10
    assert min(rankers) > reads / 10
    assert stale["reads"] == 0


def asked(workspace: Path, name: str, label: str) -> list[int]:
    """Return how much each process has counted, out of the file that it keeps for itself."""
    found: Counter[str] = Counter()
    for path in (workspace / FOLDER).glob("*_*.db"):
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
            if f'"{name}"' in key and label in key:
                found[path.stem] += int(value)
    return sorted(number for number in found.values() if number)
