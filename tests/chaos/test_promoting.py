"""Promote, roll back and try canaries under load: no request fails, no list mixes releases.

Run by ``make drills``; prints how many answers came from which release.
"""

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass
class Loaded:
    """Hold a service that clients ask all the while, and what they were answered."""

    client: httpx.Client
    first: str
    answers: list[tuple[int, httpx.Response]] = field(default_factory=list)

    def wait_for_answers(self, number: int = 200) -> None:
        before = len(self.answers)
        wait_until(
            lambda: len(self.answers) > before + number, within_s=120, what=f"{number} answers"
        )

    def post(self, what: str, **body: Any) -> Any:
        answer = self.client.post(f"/v1/release/{what}", json=body or None)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def loaded(released_workspace: Path, workspace: Path) -> Iterator[Loaded]:
    shutil.copytree(released_workspace, workspace)
    copy_release(workspace, OTHER, penalty_weight=2.0)
    key, _ = ensure_admin_key(workspace)
    port = free_port()
    headers = {"Authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{port}"
    done = threading.Event()

    def load(found: Loaded, number: int) -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            turn = number
            while not done.is_set():
                turn += NUM_CLIENTS
                body = {"user_id": f"user-{turn % USERS}", "k": 10}
                answer = client.post("/v1/recommend", json=body)
                found.answers.append((turn % USERS, answer))

    with (
        service(workspace, port),
        httpx.Client(base_url=url, headers=headers, timeout=120) as client,
    ):
        found = Loaded(client, read_current(workspace)["release"])
        threads = [
            threading.Thread(target=load, args=(found, n), daemon=True) for n in range(NUM_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield found
        finally:
            done.set()
            for thread in threads:
                thread.join()


def check(found: Loaded, *, what: str) -> None:
    """Compare all answers: each is whole, and of the one release that it names."""
    statuses = Counter(answer.status_code for _, answer in found.answers)
    bodies = [(user, json.loads(answer.text)) for user, answer in found.answers]
    releases = Counter(body["release"] for _, body in bodies)
    print(f"{len(bodies)} requests, {what}: {dict(statuses)}, {dict(releases)}")  # noqa: T201
    assert set(statuses) == {200}
    assert set(releases) == {found.first, OTHER}
    # A user whose history does not change has one list in each release.
    lists: dict[tuple[int, str], set[tuple[str, ...]]] = {}
    for user, body in bodies:
        if body["degraded"]:
            continue
        shown = tuple(item["item_id"] for item in body["items"])
        lists.setdefault((user, body["release"]), set()).add(shown)
    assert max(map(len, lists.values())) == 1
    both = [user for user in range(USERS) if {(user, found.first), (user, OTHER)} <= lists.keys()]
    assert any(lists[user, found.first] != lists[user, OTHER] for user in both)


def test_releases_change_under_load_without_a_lost_request(
    released_workspace: Path, tmp_path: Path
) -> None:
    switches = 0
    with loaded(released_workspace, tmp_path / "workspace") as found:
        deadline = time.monotonic() + 600
        while len(found.answers) < NUM_REQUESTS and time.monotonic() < deadline:
            promoted = found.post("promote", release=OTHER)
            assert promoted == {"release": OTHER, "previous": found.first}
            found.wait_for_answers()
            assert found.post("rollback") == {"release": found.first, "previous": OTHER}
            found.wait_for_answers()
            switches += 2
    check(found, what=f"{switches} switches")


def test_canaries_go_out_and_end_under_load_without_a_lost_request(
    released_workspace: Path, tmp_path: Path
) -> None:
    rounds = 0
    with loaded(released_workspace, tmp_path / "workspace") as found:
        deadline = time.monotonic() + 600
        while len(found.answers) < NUM_REQUESTS and time.monotonic() < deadline:
            for share in (0.2, 0.6):
                answer = found.post("promote", release=OTHER, canary=share)
                assert answer["canary"] == {"release": OTHER, "share": share}
                found.wait_for_answers()
            if rounds % 2:
                # Called back: everybody is answered by the old one again.
                assert found.post("rollback")["release"] == found.first
            else:
                assert found.post("promote")["release"] == OTHER
                found.wait_for_answers()
                assert found.post("rollback")["release"] == found.first
            found.wait_for_answers()
            rounds += 1
    check(found, what=f"{rounds} canaries")
