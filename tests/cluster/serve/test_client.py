"""The Python client against the real graph: answers as values, lost answers, full queues."""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from cluster.runtime import free_port
from rec.client import AsyncClient, Client, ProblemError, RetryConfig, UnreachableError
from rec.client.problems import BusyError, InvalidError, KeyRefusedError, NotFoundError
from rec.ranking.feedback.event_log import LOG_FILE
from tests.cluster.graph import Graph, running_graph
from tests.releases import make_release

URL = "http://shop"
AT_ONCE = RetryConfig(base_s=0.0, max_pause_s=5.0, seed=0)
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    workspace = tmp_path_factory.mktemp("client") / "workspace"
    workspace.mkdir()
    with running_graph(workspace, make_release(workspace)) as found:
        yield found


class Line(httpx.BaseTransport):
    """Carry requests to the application in this process; ``fate`` may change what comes back."""

    def __init__(self, graph: Graph, fate: Callable[[int, httpx.Response], httpx.Response]) -> None:
        self.graph = graph
        self.fate = fate
        self.sent = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def carry() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.graph.app, raise_app_exceptions=False)
            answer = await transport.handle_async_request(request)
            body = await answer.aread()
            return httpx.Response(answer.status_code, headers=answer.headers, content=body)

        self.sent += 1
        answer: httpx.Response = self.graph.run(carry())
        return self.fate(self.sent, answer)


def safely(_: int, answer: httpx.Response) -> httpx.Response:
    return answer


def lost(times: int) -> Callable[[int, httpx.Response], httpx.Response]:
    """Lose the first answers after the service has done its work."""

    def fate(number: int, answer: httpx.Response) -> httpx.Response:
        if number <= times:
            raise httpx.ReadTimeout("the line was cut")
        return answer

    return fate


def client(graph: Graph, fate: Any = safely, *, key: str | None = None) -> tuple[Client, Line]:
    line = Line(graph, fate)
    made = Client(URL, key=graph.key if key is None else key, retries=AT_ONCE, transport=line)
    return made, line


def test_answers_are_those_of_the_service(graph: Graph) -> None:
    shop, _ = client(graph)
    with shop:
        found = shop.recommend("user-1", k=4, penalty_weight=0.5, explain=True)
        raw = graph.good(
            "POST", "/v1/recommend", json={"user_id": "user-1", "k": 4, "penalty_weight": 0.5}
        )
        assert [(i.item_id, i.position, i.score) for i in found.items] == [
            (i["item_id"], i["position"], i["score"]) for i in raw["items"]
        ]
        assert all(item.explanation for item in found.items)
        near = shop.similar("item/3", k=3)
        by_hand = graph.good("GET", "/v1/items/item%2F3/similar?k=3")["items"]
        assert [item.item_id for item in near.items] == [item["item_id"] for item in by_hand]
        assert shop.search("green lamp", k=1).items[0].title == "green lamp"
        assert shop.release().release == raw["release"]
        [row] = shop.embed(["red dress"])
        assert sum(value * value for value in row) == pytest.approx(1)


def test_lost_answers_are_asked_for_again_and_events_count_once(graph: Graph) -> None:
    shop, line = client(graph, lost(2))
    event = {"user_id": "sender", "item_id": "item/3", "event_type": "purchase"}
    receipt = shop.send_events([event])
    # Twice it was stored for nothing, so to say: the third answer says so.
    assert (line.sent, receipt.accepted, receipt.duplicates) == (3, 0, 1)
    connection = sqlite3.connect(graph.workspace / LOG_FILE)
    [row] = connection.execute("SELECT event_id FROM events WHERE user_id = 'sender'").fetchall()
    connection.close()
    assert row == receipt.event_ids


def test_silent_service_is_given_up(graph: Graph) -> None:
    shop, line = client(graph, lost(100))
    with pytest.raises(UnreachableError, match="the line was cut"):
        shop.recommend("user-1")
    assert line.sent == AT_ONCE.max_tries


def test_busy_service_is_asked_again_when_it_says(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)

    def busy(number: int, answer: httpx.Response) -> httpx.Response:
        after = {1: "2", 2: "3"}.get(number)
        return answer if after is None else httpx.Response(503, headers={"Retry-After": after})

    shop, line = client(graph, busy)
    assert len(shop.recommend("user-1").items) == 10
    assert (line.sent, pauses) == (3, [2.0, 3.0])

    def closed(_: int, __: httpx.Response) -> httpx.Response:
        return httpx.Response(503, headers={"Retry-After": "3600"}, json={"detail": "moving"})

    shop, line = client(graph, closed)
    with pytest.raises(BusyError, match="moving") as caught:
        shop.recommend("user-1")
    assert (line.sent, caught.value.retry_after_s) == (1, 3600)


def test_error_of_a_proxy_is_asked_again_and_one_of_the_service_is_not(graph: Graph) -> None:
    def died(number: int, answer: httpx.Response) -> httpx.Response:
        return answer if number > 1 else httpx.Response(500, text="Internal Server Error")

    shop, line = client(graph, died)
    assert len(shop.recommend("user-1").items) == 10
    assert line.sent == 2

    def broken(_: int, __: httpx.Response) -> httpx.Response:
        headers = {"Content-Type": "application/problem+json"}
        return httpx.Response(500, headers=headers, content=b'{"detail": "unexpected"}')

    shop, line = client(graph, broken)
    with pytest.raises(ProblemError, match="500: unexpected"):
        shop.recommend("user-1")
    assert line.sent == 1


def test_refusals_are_typed_and_not_repeated(graph: Graph) -> None:
    shop, line = client(graph)
    with pytest.raises(InvalidError) as caught:
        shop.recommend("user-1", k=0)
    assert (caught.value.status, line.sent) == (422, 1)
    assert caught.value.request_id
    with pytest.raises(NotFoundError):
        shop.similar("item/none")
    stranger, _ = client(graph, key="wrong")
    with pytest.raises(KeyRefusedError):
        stranger.recommend("user-1")
    # A proxy's page is no problem document.
    odd, _ = client(graph, lambda *_: httpx.Response(418, text="<h1>tea</h1>"))
    with pytest.raises(ProblemError, match="418") as seen:
        odd.release()
    assert seen.value.request_id == ""


def test_both_clients_answer_alike(graph: Graph) -> None:
    async def ask() -> Any:
        transport = httpx.ASGITransport(app=graph.app)
        async with AsyncClient(URL, key=graph.key, transport=transport) as shop:
            lists = await asyncio.gather(*(shop.recommend(f"user-{n}") for n in range(4)))
            receipt = await shop.send_events([{"user_id": "async", "item_id": "item/1"}])
            return lists, receipt

    lists, receipt = graph.run(ask())
    assert receipt.accepted == 1
    shop, _ = client(graph)
    for number, found in enumerate(lists):
        assert shop.recommend(f"user-{number}").items == found.items
    public = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    assert public == {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose"}


def test_snippet_of_the_readme_runs(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippets = {}
    for name in ("README.md", "README.zh.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        [snippets[name]] = re.findall(r"```python\n(.*?rec\.client.*?)```", text, flags=re.S)
    assert snippets["README.md"] == snippets["README.zh.md"]
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(graph.app, host="127.0.0.1", port=port, log_level="warning")
    )
    serving = asyncio.run_coroutine_threadsafe(server.serve(), graph.loop)
    monkeypatch.chdir(graph.workspace.parent)
    try:
        code = snippets["README.md"].replace("http://127.0.0.1:8000", f"http://127.0.0.1:{port}")
        exec(compile(code, "README.md", "exec"), {})
    finally:
        server.should_exit = True
        serving.result(timeout=30)
    assert len(capsys.readouterr().out.splitlines()) == 5
