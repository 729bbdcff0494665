"""A real Prometheus scrapes the service with the configuration that we deploy."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from cluster.runtime import free_port
from cluster.serve.keys import add_key
from tests.cluster.graph import running_graph
from tests.releases import make_release

DEPLOYED = Path(__file__).parents[3] / "cluster" / "deploy" / "prometheus"
PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus: apt install prometheus")


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[Callable[[str], list[Any]]]:
    """Give a query of a Prometheus that scrapes a service every second; two lists were asked."""
    workspace, port, own_port = tmp_path / "workspace", free_port(), free_port()
    with running_graph(workspace, make_release(workspace)) as graph:
        server = uvicorn.Server(
            uvicorn.Config(graph.app, host="127.0.0.1", port=port, log_level="warning")
        )
        serving = asyncio.run_coroutine_threadsafe(server.serve(), graph.loop)
        for number in range(2):
            graph.good("POST", "/v1/recommend", json={"user_id": f"user-{number}"})
        config = (DEPLOYED / "prometheus.yml").read_text(encoding="utf-8")
        config = config.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("15s", "1s")
        (tmp_path / "prometheus.yml").write_text(config)
        shutil.copy(DEPLOYED / "alerts.yml", tmp_path / "alerts.yml")
        key = add_key(workspace, name="prometheus", scope="read")
        (tmp_path / "nextray.key").write_text(key)
        process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{own_port}",
            ],
            stderr=subprocess.DEVNULL,
        )

        def ask(path: str, **query: str) -> Any:
            deadline = time.monotonic() + 60
            while True:
                try:
                    answer = httpx.get(f"http://127.0.0.1:{own_port}/api/v1/{path}", params=query)
                    data = answer.json()["data"]
                    if data.get("result") or data.get("groups"):
                        return data
                except (httpx.HTTPError, KeyError, ValueError):
                    data = None
                assert time.monotonic() < deadline, f"nothing of {path} {query}: {data}"
                time.sleep(0.1)

        try:
            yield ask
        finally:
            process.terminate()
            process.wait(30)
            server.should_exit = True
            serving.result(timeout=30)


def test_prometheus_scrapes_with_a_read_key_and_evaluates_the_alerts(
    scraped: Callable[..., Any],
) -> None:
    def value(query: str) -> float:
        [row] = scraped("query", query=query)["result"]
        return float(row["value"][1])

    assert value("sum(nextray_impressions_total) == 2") == 2
    assert value('up{job="nextray"}') == 1
    assert value("nextray_catalog_items") == 60
    assert value('nextray_list_duration_seconds_count{release!=""}') == 2
    [group] = scraped("rules")["groups"]
    assert {rule["name"] for rule in group["rules"]} >= {"NextrayDown", "NextrayDegraded"}
    assert {rule["state"] for rule in group["rules"]} <= {"inactive", "pending"}
