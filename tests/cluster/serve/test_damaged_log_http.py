"""A page of the event log is lost under a running service: lists go on, and the log is mended."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rec.ranking.feedback.event_log import LOG_FILE
from tests.cluster.graph import Graph, ids, running_graph
from tests.processes import wait_until
from tests.rec.ranking.test_log_mending import leaf_of, root_of
from tests.rec.ranking.test_log_replacing import spoil_in_use
from tests.releases import make_release

NUM_EVENTS = 1_000


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    with running_graph(tmp_path, make_release(tmp_path)) as found:
        for user in range(10):
            events = [
                {"user_id": f"u{user}", "item_id": f"item/{n % 7}", "event_id": f"e{user}-{n}"}
                for n in range(NUM_EVENTS // 10)
            ]
            found.good("POST", "/v1/events", json=events)
        yield found


def lose(graph: Graph, page: int) -> None:
    path = graph.workspace / LOG_FILE
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spoil_in_use(path, page)


def damages(graph: Graph) -> dict[str, float]:
    lines = graph.ask("GET", "/metrics").text.splitlines()
    found = [line.split() for line in lines if line.startswith("nextray_log_damages_total{")]
    return {name.split('"')[1]: float(value) for name, value in found}


def damaged_folders(graph: Graph) -> list[Path]:
    return sorted((graph.workspace / LOG_FILE).parent.glob("damaged-*"))


def test_lost_page_is_reported_and_put_aside_and_the_rest_is_served_on(graph: Graph) -> None:
    path = graph.workspace / LOG_FILE
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    page = leaf_of(path, "e5-50")
    before = {user: graph.good("GET", f"/v1/users/{user}") for user in ("u0", "u5", "user-1")}
    assert damages(graph) == {"found": 0}
    lose(graph, page)
    # Whatever is asked meanwhile: lists, without the history where that is what is lost.
    list_of = {"user_id": "u5", "k": 5, "is_shown": False}
    first = graph.good("POST", "/v1/recommend", json=list_of)
    assert len(ids(first)) == 5
    assert "history_unavailable" in first["degraded"]
    assert ids(graph.good("POST", "/v1/recommend", json={"user_id": "u0", "k": 5}))
    wait_until(
        lambda: damages(graph).get("mended") == 1 and graph.ask("GET", "/healthz").is_success,
        within_s=60,
        what="the log is mended",
    )
    assert damages(graph) == {"found": 1, "mended": 1}
    [folder] = damaged_folders(graph)
    report = json.loads((folder / "report.json").read_text())
    assert 0 < report["lost_events"] < NUM_EVENTS / 5
    assert report["kept"]["events"] == NUM_EVENTS - report["lost_events"]
    # The rest is as it was, the histories of the release too.
    after = {user: graph.good("GET", f"/v1/users/{user}") for user in before}
    assert after["u0"]["events"] == before["u0"]["events"]
    assert after["user-1"]["history"] == before["user-1"]["history"] > 0
    wait_until(
        lambda: not graph.good("POST", "/v1/recommend", json=list_of)["degraded"],
        within_s=30,
        what="lists lack nothing any more",
    )
    # What was lost may be sent again; the rest counts once, and what is new is stored.
    events = [{"user_id": "u5", "item_id": "item/3", "event_id": f"e5-{n}"} for n in range(101)]
    sent = graph.good("POST", "/v1/events", json=events)
    assert sent["duplicates"] == after["u5"]["events"] < 100
    assert sent["accepted"] == 101 - sent["duplicates"]
    assert graph.good("GET", "/v1/users/u5")["events"] == 101


def test_log_that_cannot_be_mended_in_use_refuses_events_and_says_so(
    graph: Graph, caplog: pytest.LogCaptureFixture
) -> None:
    lose(graph, 1)
    # Connections that are open have read the first page; those to come will not.
    graph.gateway.state.log.close()
    answer = graph.ask("POST", "/v1/events", json=[{"user_id": "u", "item_id": "item/1"}])
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "its file is damaged and is mended when the service starts anew" in answer.text
    wait_until(lambda: damages(graph).get("failed") == 1, within_s=60, what="the try has failed")
    health = graph.ask("GET", "/healthz")
    assert (health.status_code, health.headers["retry-after"]) == (503, "1")
    listed = graph.good("POST", "/v1/recommend", json={"user_id": "u0", "k": 5})
    assert len(ids(listed)) == 5
    assert {"history_unavailable", "impression_not_logged"} <= set(listed["degraded"])
    assert graph.ask("GET", "/readyz").is_success
    assert "cannot be mended in use" in caplog.text


def test_root_of_the_impressions_lost_costs_no_event(graph: Graph) -> None:
    lose(graph, root_of(graph.workspace / LOG_FILE, "impressions_by_user"))
    graph.ask("GET", "/v1/users/u0")
    wait_until(lambda: damages(graph).get("mended") == 1, within_s=60, what="the log is mended")
    assert [graph.good("GET", f"/v1/users/u{n}")["events"] for n in range(10)] == [100] * 10
