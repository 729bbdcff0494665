"""Lose nodes of a cluster of several hosts while it serves. Each try gives one figure.

python -m tests.chaos.reliability --tries 5 serve_cut serve_head serve_node
"""

import http.client
import sys
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster.serve.keys import ensure_admin_key
from rec.client import Client, ProblemError, RetryConfig, UnreachableError
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from tests.chaos.book import Figure
from tests.chaos.hosts import Host, Rig, rig, start_head, start_ray_head, start_worker
from tests.processes import title, wait_until

CORES = 8
"""A node's, by name only: half of the graph of the profile `cpu` has room on each."""
PORT = 8000
NUM_CLIENTS, PAUSE_S = 4, 0.1
CUT_S, HEAD_LOST_S = 10, 60
QUIET_S = 5.0
"""Seconds in which no call failed or took a second: all goes on as before."""
WATCHED_S = 40.0
"""A drill watches at least this long: Ray gives a silent node up after 20 s."""
SLOW_S = 1.0
WITHIN_S = 240
PATIENCE = RetryConfig(max_tries=8)


@dataclass
class Tally:
    """Count the calls of our client, and remember which events were acknowledged."""

    calls: int = 0
    failed: int = 0
    troubled_at: float = 0.0
    """When a call last failed or was slow."""
    begun: dict[int, float] = field(default_factory=dict)
    """Since when each client waits for its call."""
    slowest_s: float = 0.0
    problems: Counter[str] = field(default_factory=Counter)
    slow: list[tuple[float, float]] = field(default_factory=list)
    """When a slow call ended, and how long it took."""
    acknowledged: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_calm(self) -> bool:
        """Return whether no call has failed, was slow or hangs."""
        now = time.monotonic()
        with self.lock:
            hangs = any(now - start > SLOW_S for start in self.begun.values())
        return not hangs and now - self.troubled_at > QUIET_S


class Load:
    """Ask for lists and send events through our client, at one node, while a block runs."""

    def __init__(self, url: str, key: str, users: list[str], items: list[str]) -> None:
        self.tally = Tally()
        self._url, self._key, self._users, self._items = url, key, users, items
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(NUM_CLIENTS)
        ]

    def __enter__(self) -> Tally:
        for thread in self._threads:
            thread.start()
        return self.tally

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with Client(self._url, key=self._key, retries=PATIENCE) as shop:
            turn = number
            while not self._stop.wait(PAUSE_S):
                turn += NUM_CLIENTS
                with self.tally.lock:
                    self.tally.begun[number] = time.monotonic()
                self._call(shop, turn)
                with self.tally.lock:
                    del self.tally.begun[number]

    def _call(self, shop: Client, turn: int) -> None:
        user, item = self._users[turn % len(self._users)], self._items[turn % len(self._items)]
        event_id = uuid.uuid4().hex
        start, problem = time.monotonic(), ""
        try:
            if turn % 2:
                shop.recommend(user, k=5)
            else:
                event = {"user_id": user, "item_id": item, "event_id": event_id}
                shop.send_events([event])
        except (ProblemError, UnreachableError) as error:
            problem = f"{type(error).__name__}: {error}"[:100]
        elapsed = time.monotonic() - start
        with self.tally.lock:
            self.tally.calls += 1
            self.tally.slowest_s = max(self.tally.slowest_s, elapsed)
            if problem:
                self.tally.failed += 1
                self.tally.problems[problem] += 1
            elif not turn % 2:
                self.tally.acknowledged.add(event_id)
            if problem or elapsed > SLOW_S:
                self.tally.troubled_at = time.monotonic()
                self.tally.slow.append((self.tally.troubled_at, elapsed))


@dataclass(kw_only=True)
class Site:
    """Hold a rig that serves from two workers."""

    made: Rig
    head: Host
    workers: list[Host]
    workspace: Path
    key: str
    users: list[str]
    items: list[str]
    is_spent: bool = False
    """Whether the graph no longer stands on both workers: Serve moves no replica back."""

    def load(self) -> Load:
        """Return a load on the first worker's own endpoint."""
        return Load(f"http://{self.workers[0].address}:{PORT}", self.key, self.users, self.items)

    def ready(self) -> None:
        """Wait until both workers answer and the graph stands on both."""
        for worker in self.workers:
            wait_until(
                lambda worker=worker: _is_ready(worker), within_s=WITHIN_S, what="worker answers"
            )
        wait_until(
            lambda: all(_replicas(worker) for worker in self.workers),
            within_s=WITHIN_S,
            what="replicas on both workers",
        )


@contextmanager
def site() -> Iterator[Site]:
    """Give a head without cores and two workers that serve a small shop's release."""
    with rig() as made:
        head = start_head(made, keep_state=True)
        workers = [start_worker(made, head, num_cpus=CORES) for _ in range(2)]
        shop = make_shop(ShopConfig(num_users=300, num_items=240, events_per_user=15))
        events, items, _ = write_shop(shop, made.folder / "files")
        workspace = made.folder / "shop"
        head.nextray(
            *("submit", "pipeline", "smoke", "--events", str(events), "--items", str(items)),
            *("--workspace", str(workspace), "--training.num-epochs", "1"),
        )
        key, _ = ensure_admin_key(workspace)
        command = ("serve", "smoke", "--profile", "cpu", "--workspace", str(workspace))
        where = ("--host", "0.0.0.0", "--port", str(PORT))
        log = made.folder / "serve.log"
        head.on_ray(head).start(sys.executable, "-m", "jobs.cli", *command, *where, log=log)
        place = Site(
            made=made,
            head=head,
            workers=workers,
            workspace=workspace,
            key=key,
            users=sorted(shop.events["user_id"].unique().to_list()),
            items=shop.items["item_id"].to_list(),
        )
        try:
            place.ready()
        except AssertionError as error:
            raise AssertionError(log.read_text(errors="replace")[-3000:]) from error
        yield place


def lose_node(where: Site) -> Figure:
    """Cut the power of one worker, and ask the other one."""
    with where.load() as tally:
        _warm(tally)
        where.workers[1].power_off()
        where.is_spent = True
        return _until_quiet(where, tally, since=time.monotonic())


def cut_network(where: Site) -> Figure:
    """Take one worker's cable out for ten seconds, and ask the other one."""
    with where.load() as tally:
        _warm(tally)
        where.workers[1].unplug()
        time.sleep(CUT_S)
        where.workers[1].plug()
        start = time.monotonic()
        wait_until(lambda: _is_ready(where.workers[1]), within_s=WITHIN_S, what="it is back")
        return _until_quiet(where, tally, since=start)


def lose_head(where: Site) -> Figure:
    """Cut the head's power for a minute, and ask a worker all the while."""
    with where.load() as tally:
        _warm(tally)
        where.head.power_off()
        time.sleep(HEAD_LOST_S)
        where.head = where.made.restart(where.head)
        start = time.monotonic()
        where.head.nextray("down")
        start_ray_head(where.head, where.made, keep_state=True)
        return _until_quiet(where, tally, since=start)


DRILLS: dict[str, Callable[[Site], Figure]] = {
    "serve_cut": cut_network,
    "serve_head": lose_head,
    "serve_node": lose_node,
}


def _warm(tally: Tally) -> None:
    wait_until(
        lambda: tally.calls > 100 and tally.is_calm(),
        within_s=WITHIN_S,
        what="calm before the drill",
    )
    with tally.lock:
        tally.calls = tally.failed = 0
        tally.slowest_s = tally.troubled_at = 0.0
        tally.problems.clear()
        tally.slow.clear()


def _until_quiet(where: Site, tally: Tally, *, since: float) -> Figure:
    """Wait until all goes on as before; then compare the log with what was acknowledged."""
    wait_until(
        lambda: time.monotonic() - since > WATCHED_S and tally.is_calm(),
        within_s=WITHIN_S,
        what=f"calm after the drill: {tally.problems}",
    )
    with tally.lock:
        acknowledged = set(tally.acknowledged)
        calls, failed, slowest_s = tally.calls, tally.failed, tally.slowest_s
        slow = [f"{took:.1f} s until {ended - since:+.0f} s" for ended, took in tally.slow]
        print("slow calls:", *slow or ["none"], dict(tally.problems), sep="\n  ", flush=True)  # noqa: T201
    log = EventLog(where.workspace / LOG_FILE)
    stored = Counter(event.event_id for _, event in log.read_after(0, 1_000_000))
    log.close()
    return Figure(
        work=calls,
        failures=failed,
        recovery_s=max(0.0, tally.troubled_at - since),
        duplicates=sum(stored.values()) - len(stored),
        lost=len(acknowledged - stored.keys()),
        redone_share=0.0,
        slowest_s=slowest_s,
    )


def _is_ready(host: Host) -> bool:
    # Asked hundreds of times a second: httpx would read the certificates of the world each time.
    try:
        with urllib.request.urlopen(f"http://{host.address}:{PORT}/readyz", timeout=35):
            return True
    except (OSError, http.client.HTTPException):
        return False


def _replicas(host: Host) -> set[str]:
    titles = [title(pid) for pid in host.processes()]
    found = {
        name.split(":")[4].split(".")[0].split()[0]
        for name in titles
        if name.startswith("ray::ServeReplica:")
    }
    return found & {"Gateway", "Ranker"} if {"Gateway", "Ranker"} <= found else set()
