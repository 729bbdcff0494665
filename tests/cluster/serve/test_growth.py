"""What a replica holds does not grow with the requests that it has answered."""

import asyncio
import gc
import logging
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.serve import encoder
from tests.cluster.graph import Graph, running_graph
from tests.releases import make_release

WARM_UP, NUM_REQUESTS = 120, 240
NUM_THREADS = 4
MOST_NEW = NUM_REQUESTS // 4
"""Objects: one that is kept for every fourth request would be seen."""
BOUNDED = {
    "weakref.ReferenceType",  # sqlite3 lists a connection's cursors, up to 200 of them
    "sqlite3.Statement",  # up to 128 of a connection
    "urllib.parse.SplitResult",  # the client's own cache
}
"""What libraries keep up to a bound that is not reached so soon."""


async def start_threads(graph: Graph) -> None:
    """Start all threads that answer, each with its connections: some twenty objects a thread."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(NUM_THREADS))
    are_there = threading.Barrier(NUM_THREADS)

    def open_connections() -> None:
        are_there.wait(60)
        for log in (graph.gateway.state.log, *(one._feedback.log for one in graph.rankers)):
            log.last_seq()

    await asyncio.gather(*(asyncio.to_thread(open_connections) for _ in range(NUM_THREADS)))


async def ask(graph: Graph, first: int, number: int) -> None:
    """Send each kind of request, each with names that no other has."""
    for turn in range(first, first + number):
        user = f"user-{turn}"
        event = {"user_id": user, "item_id": f"item/{turn % 60}", "event_id": f"e{turn}"}
        for method, path, body in (
            ("POST", "/v1/events", [event]),
            ("POST", "/v1/search", {"query": f"red dress {turn}", "user_id": user}),
            ("POST", "/v1/recommend", {"user_id": user, "k": 10}),
            ("POST", "/v1/recommend", {"user_id": user, "k": 10_000}),
            ("GET", f"/v1/nothing/{turn}", None),
        )[turn % 2 :: 2]:
            await graph.send(method, path, json=body)
    await graph.gateway.state.settle()


def kinds() -> Counter[str]:
    gc.collect()
    found = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    return Counter({kind: number for kind, number in found.items() if kind not in BOUNDED})


def test_nothing_is_kept_of_a_request_that_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "MAX_CACHED_TEXTS", 16)
    # A test keeps what is logged.
    monkeypatch.setattr(logging.getLogger("cluster.serve"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("httpx"), "propagate", False)
    with running_graph(tmp_path, make_release(tmp_path)) as graph:
        graph.run(start_threads(graph))
        graph.run(ask(graph, 0, WARM_UP))
        before = kinds()
        graph.run(ask(graph, WARM_UP, NUM_REQUESTS))
        graph.run(asyncio.sleep(0))
        grown = kinds() - before
        assert grown.total() < MOST_NEW, grown.most_common(10)
        held = graph.encoder._cache
        assert len(held) == 16
        # A cached row must not keep the rows that were encoded with it.
        assert all(row.base is None for row in held.values())
