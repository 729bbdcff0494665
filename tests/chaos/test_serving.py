"""Kill the serving graph, replica by replica, under load: no acknowledged event lost or doubled.

Run by ``make drills``; prints how many requests failed around each kill.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from cluster.runtime import free_port
from cluster.serve.keys import ensure_admin_key
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from tests.processes import end_session, kill, session_pids, title, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ("Ranker", "Encoder", "Gateway")
NUM_CLIENTS = 4
PAUSE_S = 0.05
"""Between a client's requests: about 60 a second in all, less than two cores can answer."""
READY_WITHIN_S = 180
HEALTHY_WITHIN_S = 90
QUIET_REQUESTS = 200
"""Requests in a row that neither failed nor were degraded: they end a phase."""


@dataclass
class Tally:
    """Count what became of requests, and remember the events that were acknowledged."""

    phase: str = "calm"
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    accepted: int = 0
    quiet: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, answer: httpx.Response | None, *, elapsed_s: float) -> None:
        with self.lock:
            counts = self.outcomes.setdefault(self.phase, Counter())
            counts["slowest_ms"] = max(counts["slowest_ms"], round(1000 * elapsed_s))
            is_good = answer is not None and answer.status_code == httpx.codes.OK
            counts[f"{kind}_sent"] += 1
            if not is_good:
                counts[f"{kind}_failed"] += 1
                counts["no answer" if answer is None else str(answer.status_code)] += 1
            is_degraded = is_good and kind == "list" and bool(answer.json()["degraded"])
            counts["list_degraded"] += is_degraded
            self.quiet = self.quiet + 1 if is_good and not is_degraded else 0


class Load:
    """Ask for lists and send events from a few threads while a block runs."""

    def __init__(self, url: str, key: str, item_ids: list[str], users: list[str]) -> None:
        self.tally = Tally()
        self._url, self._key = url, key
        self._item_ids, self._users = item_ids, users
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(NUM_CLIENTS)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=10) as client:
            turn = 0
            while not self._stop.wait(PAUSE_S):
                turn += 1
                user = self._users[(turn * NUM_CLIENTS + number) % len(self._users)]
                if turn % 2:
                    self._ask(client, "list", "/v1/recommend", {"user_id": user, "k": 5})
                else:
                    self._send(client, user, self._item_ids[turn % len(self._item_ids)])

    def _send(self, client: httpx.Client, user: str, item_id: str) -> None:
        """Send one event until it is acknowledged, as a careful client does."""
        event_id = uuid.uuid4().hex
        event = {"user_id": user, "item_id": item_id, "event_id": event_id}
        self.tally.sent.add(event_id)
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while time.monotonic() < deadline:
            answer = self._ask(client, "event", "/v1/events", [event])
            if answer is not None and answer.status_code == httpx.codes.OK:
                counts = answer.json()
                assert counts["accepted"] + counts["duplicates"] == 1, counts
                with self.tally.lock:
                    self.tally.acknowledged.add(event_id)
                    self.tally.accepted += counts["accepted"]
                return
            self._stop.wait(PAUSE_S)

    def _ask(
        self, client: httpx.Client, kind: str, path: str, body: object
    ) -> httpx.Response | None:
        start = time.monotonic()
        answer: httpx.Response | None = None
        with contextlib.suppress(httpx.HTTPError):
            answer = client.post(path, json=body)
        self.tally.add(kind, answer, elapsed_s=time.monotonic() - start)
        return answer


@contextlib.contextmanager
def service(workspace: Path, port: int, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python -m jobs.serve`` in a session of its own."""
    command = [sys.executable, "-m", "jobs.serve", "smoke", "--workspace", str(workspace), *flags]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, start_new_session=True)
    try:
        wait_until(
            lambda: process.poll() is not None or _is_ready(port),
            within_s=READY_WITHIN_S,
            what="the service is ready",
        )
        assert process.poll() is None
        yield process
    finally:
        end_session(process.pid)
        process.wait()


def _is_ready(port: int) -> bool:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=35)
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK


def replicas(session: int, deployment: str) -> set[int]:
    mark = f"ray::ServeReplica:nextray:{deployment}"
    return {pid for pid in session_pids(session) if title(pid).startswith(mark)}


def test_killed_replicas_lose_no_acknowledged_event(
    released_workspace: Path, shop_files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    import polars as pl

    workspace = tmp_path / "workspace"
    shutil.copytree(released_workspace, workspace)
    key, _ = ensure_admin_key(workspace)
    item_ids = pl.read_parquet(shop_files[1])["item_id"].to_list()
    users = sorted(pl.read_parquet(shop_files[0])["user_id"].unique().to_list())
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with service(workspace, port) as process:
        with Load(url, key, item_ids, users) as load:
            tally = load.tally
            _wait_for_quiet(tally)
            for deployment in DEPLOYMENTS:
                old = replicas(process.pid, deployment)
                assert old, deployment
                with tally.lock:
                    tally.phase, tally.quiet = deployment, 0
                for pid in old:
                    kill(pid)
                start = time.monotonic()
                wait_until(
                    lambda old=old, name=deployment: replicas(process.pid, name) - old,
                    within_s=HEALTHY_WITHIN_S,
                    what=f"a new {deployment}",
                )
                _wait_for_quiet(tally)
                print(  # noqa: T201
                    f"{deployment}: quiet again {time.monotonic() - start:.1f} s after the kill, "
                    f"{dict(sorted(tally.outcomes[deployment].items()))}"
                )
        headers = {"Authorization": f"Bearer {key}"}
        for path in ("/livez", "/readyz", "/healthz", "/v1/release"):
            assert httpx.get(f"{url}{path}", headers=headers, timeout=35).status_code == 200
        last = httpx.post(
            f"{url}/v1/recommend", json={"user_id": users[0]}, headers=headers, timeout=30
        ).json()
        assert last["degraded"] == []
        os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
    log = EventLog(workspace / LOG_FILE)
    stored = Counter(event.event_id for _, event in log.read_after(0, 1_000_000))
    log.close()
    print(  # noqa: T201
        f"events: {len(tally.sent)} sent, {len(tally.acknowledged)} acknowledged, "
        f"{tally.accepted} accepted, {len(stored)} stored, {dict(tally.outcomes['calm'])} before"
    )
    assert tally.acknowledged
    assert tally.acknowledged <= stored.keys() <= tally.sent
    assert set(stored.values()) == {1}


def _wait_for_quiet(tally: Tally) -> None:
    wait_until(
        lambda: tally.quiet >= QUIET_REQUESTS,
        within_s=HEALTHY_WITHIN_S,
        what=f"{QUIET_REQUESTS} requests without a failure: {tally.outcomes}",
    )
