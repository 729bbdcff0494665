"""Kill replicas three times under load, and count the requests that fail: none of 2,000.

Run by ``make drills``. Behind the gateway for a client that asks once; the gateway itself for ours,
which asks again.
"""

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from cluster.runtime import free_port
from cluster.serve.keys import ensure_admin_key
from rec.client import Client, ProblemError, RetryConfig, UnreachableError
from tests.chaos.figures import show
from tests.chaos.test_serving import replicas, service
from tests.processes import kill, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_REQUESTS = 2_000
NUM_KILLS = 3
NUM_CLIENTS = 4
WITHIN_S = 240
PATIENCE = RetryConfig(max_tries=12)
"""A gateway that is alone takes some ten seconds to come back."""
Ask = Callable[[str], tuple[str, bool]]
"""Ask for a user's list; return what came of it ("ok" or a reason), and whether it is degraded."""


@dataclass
class Tally:
    """Count what became of requests."""

    done: int = 0
    degraded: int = 0
    slowest_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: str, *, is_degraded: bool, elapsed_s: float) -> None:
        with self.lock:
            self.done += 1
            self.degraded += is_degraded
            self.slowest_s = max(self.slowest_s, elapsed_s)
            self.outcomes[outcome] += 1


def plain(url: str, key: str) -> Ask:
    """Ask once, as ``curl`` does."""
    client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def ask(user: str) -> tuple[str, bool]:
        try:
            answer = client.post("/v1/recommend", json={"user_id": user, "k": 5})
        except httpx.HTTPError as error:
            return type(error).__name__, False
        if answer.status_code != httpx.codes.OK:
            return f"{answer.status_code} {answer.text[:80]}", False
        return "ok", bool(answer.json()["degraded"])

    return ask


def ours(url: str, key: str) -> Ask:
    """Ask through our client."""
    client = Client(url, key=key, retries=PATIENCE)

    def ask(user: str) -> tuple[str, bool]:
        try:
            return "ok", bool(client.recommend(user, k=5).degraded)
        except (ProblemError, UnreachableError) as error:
            return f"{type(error).__name__}: {error}"[:120], False

    return ask


@pytest.mark.parametrize(
    ("deployment", "make"),
    [("Ranker", plain), ("Encoder", plain), ("Gateway", ours)],
    ids=["ranker", "encoder", "gateway through our client"],
)
def test_killed_replicas_fail_no_request(
    released_workspace: Path, tmp_path: Path, deployment: str, make: Callable[[str, str], Ask]
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(released_workspace, workspace)
    key, _ = ensure_admin_key(workspace)
    port = free_port()
    tally = Tally()
    is_over = threading.Event()

    def load(ask: Ask, number: int) -> None:
        while not is_over.is_set():
            start = time.monotonic()
            outcome, is_degraded = ask(f"user-{number}-{tally.done % 50}")
            tally.add(outcome, is_degraded=is_degraded, elapsed_s=time.monotonic() - start)

    recovered_s = []
    with service(workspace, port) as process:
        url = f"http://127.0.0.1:{port}"
        clients = [
            threading.Thread(target=load, args=(make(url, key), number), daemon=True)
            for number in range(NUM_CLIENTS)
        ]
        for client in clients:
            client.start()
        for turn in range(NUM_KILLS):
            enough = NUM_REQUESTS * (turn + 1) // (NUM_KILLS + 1)
            wait_until(lambda n=enough: tally.done >= n, within_s=WITHIN_S, what="requests")
            old = replicas(process.pid, deployment)
            assert old
            for pid in old:
                kill(pid)
            start = time.monotonic()
            wait_until(
                lambda old=old: replicas(process.pid, deployment) - old,
                within_s=WITHIN_S,
                what=f"a new {deployment}",
            )
            recovered_s.append(round(time.monotonic() - start, 1))
        wait_until(lambda: tally.done >= NUM_REQUESTS, within_s=WITHIN_S, what="all requests")
        is_over.set()
        for client in clients:
            client.join()
    failed = tally.done - tally.outcomes["ok"]
    show(
        f"{deployment} killed",
        requests=tally.done,
        kills=NUM_KILLS,
        failed=failed,
        degraded=tally.degraded,
        slowest_s=round(tally.slowest_s, 2),
        new_replica_s=recovered_s,
    )
    assert failed == 0, json.dumps(tally.outcomes)
