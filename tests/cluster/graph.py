"""The serving graph in this process: the real gateway, encoder and ranker, without Ray between.

One event loop in a thread runs everything, as a replica's would; a handle call is a coroutine.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import uvicorn

from cluster.runtime import free_port
from cluster.serve.batching import Batcher
from cluster.serve.encoder import Encoder
from cluster.serve.gateway import Gateway
from cluster.serve.histories import load_histories
from cluster.serve.index_shards import IndexShard
from cluster.serve.keys import ensure_admin_key
from cluster.serve.ranker import Ranker
from cluster.serve.served_release import ServedRelease
from tests.processes import wait_until


class Answer:
    """What a handle call returns: awaited for the result, cancelled by who gives up."""

    def __init__(self, work: Awaitable[Any]) -> None:
        self._work = work

    def __await__(self) -> Iterator[Any]:
        return self._work.__await__()

    def cancel(self) -> None:
        return


class Handle:
    """Call the methods of some replicas in turn, as a deployment handle does."""

    def __init__(self, *replicas: Any) -> None:
        self.replicas = list(replicas)
        self._turn = 0

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Answer:
            self._turn += 1
            replica = self.replicas[self._turn % len(self.replicas)]
            return Answer(getattr(replica, name)(*arguments))

        return type("Method", (), {"remote": staticmethod(remote)})()


class Graph:
    """Hold a running graph and ask it."""

    def __init__(
        self, workspace: Path, release: Path, *, num_rankers: int, num_shards: int
    ) -> None:
        self.workspace = workspace
        self.key, _ = ensure_admin_key(workspace)
        load_histories(workspace, release)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.encoder: Any = self.build(lambda: Encoder(str(release), 1))
        fingerprint = ServedRelease.read(release).fingerprint
        self.shards = [
            Handle(self.build(lambda part=part: IndexShard(str(workspace), part, num_shards, 1)))
            for part in range(num_shards)
        ]
        self.rankers: list[Any] = [
            self.build(lambda: Ranker(str(workspace), fingerprint, 1, self.shards))
            for _ in range(num_rankers)
        ]
        for ranker in self.rankers:
            # Batches of one: a batch of another size sums in another order.
            ranker._recommend_batched = Batcher(ranker._recommend_batch, max_size=1)
            ranker._search_batched = Batcher(ranker._search_batch, max_size=1)
        self.gateway = Gateway(
            Handle(self.encoder), Handle(*self.rankers), str(workspace), str(release)
        )
        self.app = self.gateway.__serve_build_asgi_app__()

    def build(self, make: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return make()

        return self.run(run())

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=60)

    def ask(
        self, method: str, path: str, *, key: str | None = None, **arguments: Any
    ) -> httpx.Response:
        answer: httpx.Response = self.run(self.send(method, path, key=key, **arguments))
        return answer

    async def send(
        self, method: str, path: str, *, key: str | None = None, **arguments: Any
    ) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            return await client.request(method, path, **arguments)

    def good(self, method: str, path: str, **arguments: Any) -> Any:
        answer = self.ask(method, path, **arguments)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def erase(self, user_id: str) -> Any:
        """Erase a user and return the receipt, as one who looks again where told to."""
        answer = self.ask("DELETE", f"/v1/users/{quote(user_id, safe='')}")
        assert answer.status_code in (200, 202), answer.text
        receipt = answer.json()
        return {**receipt, **self.ended(receipt)}

    def ended(self, receipt: Any) -> Any:
        """Return how an erasure ended."""
        deadline, follow = time.monotonic() + 60, receipt["follow"]
        while receipt["state"] == "pending":
            assert time.monotonic() < deadline
            time.sleep(0.05)
            receipt = self.good("GET", follow)
        return receipt

    def close(self) -> None:
        for ranker in self.rankers:
            ranker.close()
        self.gateway.state.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=10)


@contextmanager
def running_graph(
    workspace: Path, release: Path, *, num_rankers: int = 1, num_shards: int = 0
) -> Iterator[Graph]:
    graph = Graph(workspace, release, num_rankers=num_rankers, num_shards=num_shards)
    try:
        yield graph
    finally:
        graph.close()


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


@contextmanager
def over_http(graph: Graph) -> Iterator[str]:
    """Give a graph's base URL while a block runs: uvicorn on a real port, in the graph's loop."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(graph.app, port=port, log_level="error"))
    running = asyncio.run_coroutine_threadsafe(server.serve(), graph.loop)
    try:
        wait_until(lambda: server.started, within_s=30, what="the gateway listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        running.result(timeout=30)
