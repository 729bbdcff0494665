"""Promote and roll back a running service under load: no request fails, no list mixes releases.

Run by ``make drills``; prints how many answers came from which release.
"""

import json
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.runtime import free_port
from cluster.serve.keys import ensure_admin_key
from rec.ranking.current import read_current
from tests.chaos.test_serving import service
from tests.processes import wait_until
from tests.releases import copy_release

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

OTHER = "0" * 16
NUM_REQUESTS = 5_000
NUM_CLIENTS = 4
USERS = 20


def test_releases_change_under_load_without_a_lost_request(
    released_workspace: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(released_workspace, workspace)
    first = read_current(workspace)["release"]
    copy_release(workspace, OTHER, penalty_weight=2.0)
    key, _ = ensure_admin_key(workspace)
    port = free_port()
    headers = {"Authorization": f"Bearer {key}"}
    answers: list[tuple[int, Any]] = []
    done = threading.Event()

    def load(number: int) -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            turn = number
            while not done.is_set():
                turn += NUM_CLIENTS
                body = {"user_id": f"user-{turn % USERS}", "k": 10}
                answer = client.post("/v1/recommend", json=body)
                answers.append((turn % USERS, answer))

    url = f"http://127.0.0.1:{port}"
    with (
        service(workspace, port),
        httpx.Client(base_url=url, headers=headers, timeout=120) as client,
    ):
        threads = [
            threading.Thread(target=load, args=(n,), daemon=True) for n in range(NUM_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        switches = 0
        deadline = time.monotonic() + 600
        while len(answers) < NUM_REQUESTS and time.monotonic() < deadline:
            promoted = client.post("/v1/release/promote", json={"release": OTHER})
            assert promoted.json() == {"release": OTHER, "previous": first}, promoted.text
            before = len(answers)
            wait_until(lambda n=before: len(answers) > n + 200, within_s=120, what="200 answers")
            back = client.post("/v1/release/rollback")
            assert back.json() == {"release": first, "previous": OTHER}, back.text
            before = len(answers)
            wait_until(lambda n=before: len(answers) > n + 200, within_s=120, what="200 answers")
            switches += 2
        done.set()
        for thread in threads:
            thread.join()
    statuses = Counter(answer.status_code for _, answer in answers)
    bodies = [(user, json.loads(answer.text)) for user, answer in answers]
    releases = Counter(body["release"] for _, body in bodies)
    print(f"{len(answers)} requests, {switches} switches: {dict(statuses)}, {dict(releases)}")  # noqa: T201
    assert set(statuses) == {200}
    assert set(releases) == {first, OTHER}
    # A user whose history does not change has one list in each release.
    lists: dict[tuple[int, str], set[tuple[str, ...]]] = {}
    for user, body in bodies:
        if body["degraded"]:
            continue
        shown = tuple(item["item_id"] for item in body["items"])
        lists.setdefault((user, body["release"]), set()).add(shown)
    assert max(map(len, lists.values())) == 1
    assert any(lists[user, first] != lists[user, OTHER] for user in range(USERS))
