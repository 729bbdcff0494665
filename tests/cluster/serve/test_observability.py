"""Metrics, traces and logs of the gateway: what they tell, and whom they never name."""

import io
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.serve.observing import JsonFormatter
from cluster.serve.tracing import TRACEPARENT
from tests.cluster.graph import Graph, running_graph
from tests.releases import make_release

DEPLOY = Path(__file__).parents[3] / "cluster" / "deploy"
CANARY = "zebra-4711"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
NAME = re.compile(r"nextray_[a-z_]+")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    workspace = tmp_path_factory.mktemp("observed")
    with running_graph(workspace, make_release(workspace)) as found:
        yield found


def samples(graph: Graph) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and label values."""
    answer = graph.ask("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_count_what_was_asked(graph: Graph) -> None:
    before = samples(graph)
    shown = [graph.good("POST", "/v1/recommend", json={"user_id": f"m-{n}"}) for n in range(3)]
    event = {
        "user_id": "m-0",
        "item_id": shown[0]["items"][0]["item_id"],
        "event_id": "once",
        "impression_id": shown[0]["impression_id"],
    }
    graph.good("POST", "/v1/events", json=[event, {"user_id": "m-0", "item_id": "none"}])
    graph.good("POST", "/v1/events", json=[event])
    graph.ask("GET", "/nowhere/m-0")
    graph.run(graph.gateway.state.settle())
    after = samples(graph)

    def grown(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    release = shown[0]["release"]
    assert grown("nextray_requests_total", "POST", "/v1/recommend", "200") == 3
    assert grown("nextray_requests_total", "GET", "unmatched", "404") == 1
    assert grown("nextray_impressions_total", release) == 3
    assert grown("nextray_stage_duration_seconds_count", "rank") == 3
    total = sum(answer["timings_ms"]["total"] for answer in shown) / 1000
    assert grown("nextray_stage_duration_seconds_sum", "total") == pytest.approx(total)
    outcomes = [grown("nextray_events_total", o) for o in ("accepted", "duplicate", "rejected")]
    assert outcomes == [1, 1, 1]
    assert grown("nextray_impression_events_total", release) == 1
    assert grown("nextray_feedback_lag_seconds_count") == 1
    assert after[("nextray_release_info", release)] == 1
    assert after[("nextray_catalog_items",)] == 60
    distinct = {item["item_id"] for answer in shown for item in answer["items"]}
    assert after[("nextray_coverage_ratio",)] >= len(distinct) / 60


def test_lists_that_lack_something_are_counted_by_reason(graph: Graph) -> None:
    lacking = graph.gateway.state.encoder.replicas
    kept, lacking[:] = list(lacking), [object()]
    key = ("nextray_degraded_total", "ranker_unavailable")
    rankers = graph.gateway.state.ranker.replicas
    kept_rankers, rankers[:] = list(rankers), [_Silent()]
    before = samples(graph).get(key, 0.0)
    try:
        answer = graph.good("POST", "/v1/recommend", json={"user_id": "nobody"})
    finally:
        lacking[:], rankers[:] = kept, kept_rankers
    assert answer["degraded"] == ["ranker_unavailable"]
    assert samples(graph)[key] == before + 1


class _Silent:
    """Be a ranker whose process has died."""

    async def recommend_each(self, *_: object) -> object:
        from ray.exceptions import RayActorError

        raise RayActorError


def test_trace_goes_on_and_a_forged_one_does_not(graph: Graph) -> None:
    def answer_to(header: str) -> str:
        return str(graph.ask("GET", "/livez", headers={TRACEPARENT: header}).headers[TRACEPARENT])

    version, trace_id, span_id, flags = answer_to(f"00-{TRACE}-00f067aa0ba902b7-01").split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert span_id != "00f067aa0ba902b7"
    for forged in (
        "00-<b>-x-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"ff-{TRACE}-{'1' * 16}-01",
    ):
        assert TRACE not in answer_to(forged)


def spans_of(graph: Graph, trace_id: str, *, flags: str) -> list[dict[str, Any]]:
    """Return the log lines of a trace: of a list for a user who has searched."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.getLogger("cluster.serve").addHandler(handler)
    try:
        header = f"00-{trace_id}-00f067aa0ba902b7-{flags}"
        body = {"user_id": "user-1", "k": 3}
        graph.good("POST", "/v1/recommend", json=body, headers={TRACEPARENT: header})
    finally:
        logging.getLogger("cluster.serve").removeHandler(handler)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in lines if line["trace_id"] == trace_id]


def test_sampled_trace_reaches_encoder_and_ranker(graph: Graph) -> None:
    lines = spans_of(graph, TRACE, flags="01")
    [gateway] = [line for line in lines if line["message"] == "request"]
    assert gateway["parent_id"] == "00f067aa0ba902b7"
    assert gateway["route"] == "/v1/recommend"
    inner = [line for line in lines if line["message"] == "span"]
    assert sorted(line["span"] for line in inner) == ["Encoder.encode", "Ranker.recommend"]
    assert {line["parent_id"] for line in inner} == {gateway["span_id"]}
    assert len({line["span_id"] for line in lines}) == 3
    assert all(0 < line["duration_ms"] <= gateway["duration_ms"] for line in inner)


def test_trace_that_nobody_samples_costs_one_line(graph: Graph) -> None:
    assert [line["message"] for line in spans_of(graph, TRACE[::-1], flags="00")] == ["request"]


def test_nobody_is_named_in_logs_and_metrics(graph: Graph) -> None:
    """Ask for a canary everywhere, with every logger at DEBUG."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(), logging.getLogger("cluster.serve")]
    levels = [logger.level for logger in loggers]
    kept = [name for name in ("httpx", "httpcore", "asyncio") if name]
    for name in kept:
        # They are the test's own client, which logs the paths that it asks for.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(handler)
    try:
        graph.good("GET", f"/v1/users/{CANARY}/recommendations")
        graph.good("POST", "/v1/search", json={"query": CANARY, "user_id": CANARY})
        event = {"user_id": CANARY, "query": CANARY, "event_type": "search", "session_id": CANARY}
        graph.good("POST", "/v1/events", json=[event])
        graph.ask("GET", f"/v1/items/{CANARY}/similar")
        graph.ask("GET", f"/{CANARY}", headers={"X-Request-Id": "r-1"}, key=CANARY)
        graph.ask("POST", "/v1/recommend", content=CANARY)
        graph.good("GET", f"/v1/users/{CANARY}/history")
        # 202 where the rest of the erasure takes longer: a process of its own does it.
        assert graph.ask("DELETE", f"/v1/users/{CANARY}").status_code in (200, 202)
        metrics = graph.ask("GET", "/metrics").text
    finally:
        loggers[0].removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in kept:
            logging.getLogger(name).setLevel(logging.NOTSET)
    logged = stream.getvalue()
    assert CANARY not in logged
    assert graph.key not in logged
    assert CANARY not in metrics
    lines = [json.loads(line) for line in logged.splitlines()]
    asked = [line for line in lines if line["message"] == "request"]
    assert len(asked) == 9
    assert {line["route"] for line in asked} >= {"/v1/users/{user_id:path}/recommendations"}
    assert [line["status"] for line in asked if line["request_id"] == "r-1"] == [401]
    assert all(re.fullmatch("[0-9a-f]{32}", line["trace_id"]) for line in asked)


def test_dashboard_and_alerts_name_metrics_that_there_are(graph: Graph) -> None:
    graph.good("POST", "/v1/recommend", json={"user_id": "u", "k": 1})
    text = graph.ask("GET", "/metrics").text
    there = set(NAME.findall(text)) | {name.removesuffix("_total") for name in NAME.findall(text)}
    board = json.loads((DEPLOY / "grafana" / "nextray.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions.append((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    named = {
        re.sub("_(bucket|sum|count)$", "", name)
        for text in expressions
        for name in NAME.findall(text)
    }
    assert len(named) >= 10
    assert named - there == set()


def test_each_alert_has_its_line_on_the_page_of_operations() -> None:
    alerts = re.findall(r"alert: (\w+)", (DEPLOY / "prometheus" / "alerts.yml").read_text())
    lines = (DEPLOY / "README.md").read_text(encoding="utf-8").splitlines()
    told = [line.split("|")[1].strip() for line in lines if line.startswith("| Nextray")]
    assert told == alerts


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt install prometheus")
@pytest.mark.parametrize(
    "check",
    [
        "check rules alerts.yml",
        "test rules alerts_test.yml",
        "check config --syntax-only prometheus.yml",
    ],
)
def test_promtool_accepts_the_rules(check: str) -> None:
    done = subprocess.run(
        ["promtool", *check.split(" ")],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt install prometheus")
def test_promtool_accepts_the_metrics(graph: Graph) -> None:
    text = graph.ask("GET", "/metrics").content
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_processes_add_up(tmp_path: Path) -> None:
    """Count in three processes, one after the other; the last one tells of all."""
    code = """
import sys
from pathlib import Path
from cluster.serve.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
metrics.count_request("/v1/recommend", method="POST", status=200, seconds=0.004)
print(metrics.text(release="r", num_items=3, coverage=None).decode())
"""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "metrics")],
            capture_output=True,
            text=True,
            check=True,
            cwd=DEPLOY.parents[1],
        )
    line = 'nextray_requests_total{method="POST",route="/v1/recommend",status="200"} 3.0'
    assert line in done.stdout
    assert 'nextray_release_info{release="r"} 1.0' in done.stdout
