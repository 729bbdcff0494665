"""``nextray up``, ``status``, ``submit`` and ``down`` as a user runs them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster import launcher
from rec.data.synthetic import ShopConfig, make_shop, write_shop

ROOT = Path(__file__).parents[2]
WITHIN_S = 240


def nextray(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") and name != "PYTHONPATH"
    }
    home = tmp_path_factory.mktemp("home")
    return kept | {"RAY_AUTH_TOKEN_PATH": str(home / "token"), "HOME": str(home)}


@pytest.fixture(scope="module")
def up(environment: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Give the running cluster; whatever a test did, nothing of it stays."""
    done = nextray(environment, "up", "--json")
    assert done.returncode == 0, done.stderr
    try:
        yield json.loads(done.stdout)
    finally:
        launcher.stop(Path(environment["HOME"]) / ".nextray")


def test_up_listens_on_loopback_only_and_demands_the_token(
    up: dict[str, Any], environment: dict[str, str]
) -> None:
    own = [psutil.Process(pid) for pid in up["pids"]]
    hosts = {host.removeprefix("::ffff:") for host, _ in launcher.listening(own)}
    assert hosts == {"127.0.0.1"}
    token = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    for method in ("GET", "POST", "PUT", "DELETE"):
        url = f"{up['dashboard']}/api/jobs/"
        assert httpx.request(method, url).status_code == 401
        wrong = {"Authorization": "Bearer nobody"}
        assert httpx.request(method, url, headers=wrong).status_code == 403
    again = nextray(environment, "up")
    assert (again.returncode, "up already" in again.stderr) == (2, True)


def test_submitted_job_is_followed_and_its_failure_is_ours(
    up: dict[str, Any], environment: dict[str, str], tmp_path: Path
) -> None:
    shop = make_shop(ShopConfig(num_users=20, num_items=30, events_per_user=5))
    events, items, _ = write_shop(shop, tmp_path / "shop")
    files = ("--events", str(events), "--items", str(items))
    workspace = ("--workspace", str(tmp_path / "workspace"))
    done = nextray(environment, "submit", "--json", "prepare", "smoke", *files, *workspace)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exit_code"] == 0
    assert "prepare" in done.stderr
    assert (tmp_path / "workspace" / "sequences" / "latest").is_file()
    failed = nextray(environment, "submit", "index", "smoke", *workspace)
    assert failed.returncode == 2, failed.stderr
    assert "found none: run `python -m jobs.train" in failed.stderr
    status = json.loads(nextray(environment, "status", "--json").stdout)
    assert status["address"] == up["address"]
    assert [job["status"] for job in status["jobs"]] == ["SUCCEEDED", "FAILED"]


def test_down_leaves_no_process_and_no_port(
    up: dict[str, Any], environment: dict[str, str]
) -> None:
    folder = Path(environment["HOME"]) / ".nextray"
    cluster = launcher.find(folder)
    assert cluster is not None
    ports = {port for _, port in launcher.listening(launcher.processes(cluster))}
    assert len(ports) >= 8
    done = nextray(environment, "down", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["ports"]) >= ports
    assert launcher.processes(cluster) == []
    for port in ports:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)
    assert not Path(up["temp_folder"]).exists()
    assert "nothing was up" in nextray(environment, "down").stderr
    assert nextray(environment, "status", "--json").returncode == 1
