"""Secrets that must stay where they are: one of each kind, every process at DEBUG, then a search.

A pipeline and an endpoint run on a head of their own, with feedback on a Redis server behind a
password. Whatever they wrote beside the workspace's own data is searched: Ray's session with the
jobs' logs, what commands printed, the list of jobs, metrics, OpenAPI, reports and model cards. Run
by ``make drills``.
"""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.runtime import free_port
from cluster.serve.keys import ADMIN_KEY_FILE, add_key
from rec.data.private_files import create_private_file
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.stages.moving_feedback import use_store
from rec.stages.preparation import KEY_FILE
from tests.heads import Head, local_head
from tests.processes import wait_until
from tests.redis_server import needs_redis, running_redis

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(470)]

ROOT = Path(__file__).parents[2]
WITHIN_S = 300
AT_DEBUG = """
import logging
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")
"""
"""Python runs it at the start of every process whose path it is on."""
USER = "canary-user-" + secrets.token_hex(6)
QUERY = "canary query " + secrets.token_hex(6)
PASSWORD = secrets.token_hex(16)
PSEUDONYM_KEY = secrets.token_hex(32)
STRANGERS_KEY = "canary-stranger-" + secrets.token_hex(8)


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Hold what was written, by where, and what must not stand in it."""

    texts: Mapping[str, bytes]
    canaries: Mapping[str, str]


def run(head: Head, *words: str, stdout: Any = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *words],
        cwd=ROOT,
        env=dict(head.environment),
        stdout=stdout,
        stderr=subprocess.STDOUT,
    )


def finish(process: "subprocess.Popen[bytes]") -> bytes:
    shown, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, shown.decode()[-3000:]
    return shown


def write_files(folder: Path) -> tuple[str, ...]:
    """Write a shop with a user and a query of ours in it."""
    shop = make_shop(ShopConfig(num_users=60, num_items=60, events_per_user=15))
    events, items, _ = write_shop(shop, folder)
    more = [
        {"user_id": USER, "query": QUERY, "event_type": "search", "timestamp": 1_735_700_000 + n}
        for n in range(3)
    ]
    more.append({"user_id": USER, "item_id": "no-such-item", "timestamp": 1_735_700_000})
    text = "".join(json.dumps(row) + "\n" for row in more) + f'{{"user_id": "{USER}", broken\n'
    (folder / "more.jsonl").write_text(text)
    return "--events", str(events), str(folder / "more.jsonl"), "--items", str(items)


def call(url: str, key: str) -> dict[str, bytes]:
    """Ask for everything, rightly and wrongly; return what may be published of it."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        asked = http.post("/v1/recommend", json={"user_id": USER, "k": 5})
        assert asked.status_code == 200, asked.text
        event = {"user_id": USER, "event_type": "search", "query": QUERY}
        assert http.post("/v1/events", json=[event]).status_code == 200
        assert http.get(f"/v1/users/{USER}/recommendations?k=3").status_code == 200
        assert http.get(f"/v1/users/{USER}").status_code == 200
        assert http.post("/v1/search", json={"query": QUERY, "user_id": USER}).status_code == 200
        refusals = [
            http.get(f"/v1/users/{USER}", headers={"Authorization": f"Bearer {STRANGERS_KEY}"}),
            http.post("/v1/recommend", json={"user_id": USER, "k": QUERY}),
            http.post("/v1/events", content=f'{{"user_id": "{USER}", '),
            http.get(f"/v1/{USER}"),
        ]
        assert [answer.status_code for answer in refusals] == [401, 422, 422, 404], refusals
        return {name: http.get(f"/{name}").content for name in ("metrics", "openapi.json")}


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    folder = tmp_path_factory.mktemp("canary")
    workspace = folder / "workspace"
    files = write_files(folder / "shop")
    create_private_file(workspace / KEY_FILE, PSEUDONYM_KEY)
    (folder / "debug").mkdir()
    (folder / "debug" / "sitecustomize.py").write_text(AT_DEBUG)
    extra = {"RAY_BACKEND_LOG_LEVEL": "debug", "PYTHONPATH": str(folder / "debug")}
    texts: dict[str, bytes] = {}
    with (
        running_redis(folder / "redis", password=PASSWORD) as redis,
        local_head(extra=extra) as head,
    ):
        there = ("--workspace", str(workspace), "--verbose")
        submit = ("submit", "--address", head.jobs_url)
        texts["submit"] = finish(run(head, *submit, "pipeline", "smoke", *there, *files))
        port, log = free_port(), folder / "serve.log"
        # The address with its password comes by a file: a command line is everybody's.
        use_store(workspace, redis.url)
        with log.open("wb") as stream:
            serve = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jobs.cli", "serve", "smoke", *there),
                    *("--port", str(port)),
                ],
                cwd=ROOT,
                env={**head.environment, "RAY_ADDRESS": head.address},
                stdout=stream,
                stderr=stream,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(
                lambda: serve.poll() is not None or is_ready(url),
                within_s=WITHIN_S,
                what="the endpoint answers",
            )
            assert serve.poll() is None, log.read_text()[-3000:]
            admin = (workspace / ADMIN_KEY_FILE).read_text().strip()
            reader = add_key(workspace, name="shop", scope="write")
            texts |= call(url, admin)
        finally:
            serve.terminate()
            serve.wait(timeout=60)
        texts["serve"] = log.read_bytes()
        headers = {"Authorization": f"Bearer {head.token}"}
        texts["jobs"] = httpx.get(f"{head.jobs_url}/api/jobs/", headers=headers).content
        session = head.folder / "session_latest"
        for path in sorted(session.resolve().rglob("*")):
            if path.is_file() and "runtime_resources" not in path.parts:
                texts[f"ray/{path.relative_to(session.resolve())}"] = path.read_bytes()
        for room in ("reports", "releases", "metrics"):
            for path in (workspace / room).rglob("*"):
                if path.is_file() and path.suffix in (".json", ".html", ".md", ".prom"):
                    texts[str(path.relative_to(workspace))] = path.read_bytes()
        yield Traces(
            texts=texts,
            canaries={
                "the token of Ray": head.token,
                "the admin key": admin,
                "an API key": reader,
                "the key of pseudonyms": PSEUDONYM_KEY,
                "the password of Redis": PASSWORD,
                "a stranger's key": STRANGERS_KEY,
                "a user": USER,
                "a query": QUERY,
            },
        )


@needs_redis
def test_no_secret_stands_in_what_was_written(traces: Traces) -> None:
    names = traces.texts.keys()
    # The search can fail: everything was there, and talked.
    assert any(name.startswith("ray/logs/job-driver") for name in names)
    assert any(name.startswith("ray/logs/serve/") for name in names)
    assert any(name.startswith("reports/") for name in names)
    assert sum(text.count(b"DEBUG") for text in traces.texts.values()) > 100
    hits = {
        f"{what} in {name}"
        for what, canary in traces.canaries.items()
        for name, text in traces.texts.items()
        if canary.encode() in text
    }
    size = sum(map(len, traces.texts.values()))
    print(f"\n{len(names)} files, {size / 2**20:.1f} MiB, {len(hits)} hits")  # noqa: T201
    assert hits == set()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=35).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
