"""Kill whoever owns the event log under eight writers: nothing acknowledged is lost or doubled.

Run by ``make drills``. The owner is the gateway's process, with SQLite files, and the Redis server.
"""

import contextlib
import os
import random
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
from typing import Protocol

import httpx
import pytest

from cluster.runtime import free_port
from cluster.serve.keys import ensure_admin_key
from rec.ranking.feedback.log_errors import LogUnavailableError
from rec.ranking.feedback.stores import open_feedback
from rec.stages.ingesting import ingest
from rec.stages.moving_feedback import use_store
from tests.chaos.figures import show
from tests.processes import wait_until
from tests.rec.ranking.test_feedback_stores import view
from tests.redis_server import RedisServer, needs_redis, running_redis
from tests.releases import make_release

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_KILLS = 30
NUM_WRITERS = 8
ALIVE_S = (0.05, 0.6)
"""How long an owner that answers is left alone, drawn anew each time."""
UP_WITHIN_S = 60
ROOT = Path(__file__).parents[2]


@dataclass
class Tally:
    """Remember what was sent, and what was acknowledged."""

    sent: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    accepted: int = 0
    duplicates: int = 0
    failures: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sender(Protocol):
    """Send one event; return accepted and duplicates, or ``None`` without an answer."""

    def __call__(self, event_id: str, number: int) -> tuple[int, int] | None: ...


def write_until_stopped(send: Sender, tally: Tally, writer: int) -> None:
    """Send each event again and again until it is acknowledged, as a careful client does."""
    number = 0
    while not tally.stop.is_set():
        number += 1
        event_id = f"{writer}-{number}-{uuid.uuid4().hex[:8]}"
        with tally.lock:
            tally.sent.add(event_id)
        while (counts := send(event_id, number)) is None:
            with tally.lock:
                tally.failures += 1
            if tally.stop.wait(0.02):
                return
        with tally.lock:
            tally.acknowledged.add(event_id)
            tally.accepted += counts[0]
            tally.duplicates += counts[1]


@contextlib.contextmanager
def writing(senders: list[Sender]) -> Iterator[Tally]:
    """Let every sender write while a block runs."""
    tally = Tally()
    writers = [
        threading.Thread(target=write_until_stopped, args=(send, tally, number), daemon=True)
        for number, send in enumerate(senders)
    ]
    for writer in writers:
        writer.start()
    try:
        yield tally
    finally:
        tally.stop.set()
        for writer in writers:
            writer.join()


def check(workspace: Path, tally: Tally, *, drill: str, kills: int) -> None:
    """Compare the log, and what is ingested of it, with what was acknowledged."""
    feedback = open_feedback(workspace)
    stored = Counter(event.event_id for _, event in feedback.log.read_after(0, 10_000_000))
    feedback.close()
    lost = tally.acknowledged - stored.keys()
    doubled = [name for name, number in stored.items() if number > 1]
    show(
        drill,
        kills=kills,
        writers=NUM_WRITERS,
        acknowledged=len(tally.acknowledged),
        failed_sends=tally.failures,
        counted_as_duplicates=tally.duplicates,
        lost=len(lost),
        doubled=len(doubled),
    )
    assert len(tally.acknowledged) > 10 * kills
    assert tally.failures > 0
    assert not lost
    assert not doubled
    assert stored.keys() <= tally.sent
    assert ingest(workspace)["events"] == len(stored)


class Gateway:
    """Hold the gateway's process; it may be killed and started again."""

    def __init__(self, workspace: Path) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "tests.chaos.gateway_process", str(workspace)]
        with (workspace / "gateway.log").open("wb") as log:
            self._parent = subprocess.Popen(
                [*command, str(self.port)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._pid = 0

    def start(self) -> None:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(b"start\n")
        self._parent.stdin.flush()
        self._pid = int(self._parent.stdout.readline())
        wait_until(self._is_live, within_s=UP_WITHIN_S, what="the gateway answers")

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.kill()
        self._parent.communicate(timeout=UP_WITHIN_S)

    def _is_live(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/livez", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


def over_http(port: int, key: str) -> Sender:
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {key}"},
        timeout=httpx.Timeout(10, connect=1),
    )

    def send(event_id: str, number: int) -> tuple[int, int] | None:
        event = {"user_id": f"u{number % 50}", "item_id": "item/1", "event_id": event_id}
        try:
            answer = client.post("/v1/events", json=[event])
        except httpx.HTTPError:
            return None
        if answer.status_code != httpx.codes.OK:
            return None
        body = answer.json()
        assert body["accepted"] + body["duplicates"] == 1, body
        return body["accepted"], body["duplicates"]

    return send


def test_killed_gateway_loses_no_acknowledged_event(tmp_path: Path) -> None:
    make_release(tmp_path)
    key, _ = ensure_admin_key(tmp_path)
    random_s = random.Random(0)
    gateway = Gateway(tmp_path)
    try:
        gateway.start()
        with writing([over_http(gateway.port, key) for _ in range(NUM_WRITERS)]) as tally:
            for _ in range(NUM_KILLS):
                time.sleep(random_s.uniform(*ALIVE_S))
                gateway.kill()
                gateway.start()
            before = len(tally.acknowledged)
            wait_until(
                lambda: len(tally.acknowledged) > before + 50, within_s=60, what="it goes on"
            )
    finally:
        gateway.close()
    check(tmp_path, tally, drill="log owner killed, SQLite over HTTP", kills=NUM_KILLS)


def over_store(workspace: Path) -> Sender:
    feedback = open_feedback(workspace)

    def send(event_id: str, number: int) -> tuple[int, int] | None:
        try:
            return feedback.log.append([view(f"u{number % 50}", "item/1", number, event_id)])
        except LogUnavailableError:
            return None

    return send


@needs_redis
def test_killed_redis_server_loses_no_acknowledged_event(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    random_s = random.Random(1)
    with running_redis(tmp_path / "redis") as server:
        assert isinstance(server, RedisServer)
        use_store(workspace, server.url)
        with writing([over_store(workspace) for _ in range(NUM_WRITERS)]) as tally:
            for _ in range(NUM_KILLS):
                time.sleep(random_s.uniform(*ALIVE_S))
                server.kill()
                server.start()
            before = len(tally.acknowledged)
            wait_until(
                lambda: len(tally.acknowledged) > before + 50, within_s=60, what="it goes on"
            )
        check(workspace, tally, drill="Redis server killed", kills=NUM_KILLS)
