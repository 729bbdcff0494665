"""``nextray up``, ``status``, ``submit`` and ``down`` as a user runs them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from cluster import launcher
from cluster.runtime import free_port
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from tests.epochs import EpochWatch
from tests.processes import kill, wait_until
from tests.releases import make_release

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
WITHIN_S = 240
EVERYWHERE = ("0.0.0.0", "::")
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


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


NUM_EPOCHS = 30
KILLED_AFTER = 6
ENDLESS = 500


@pytest.fixture(scope="module")
def prepared(
    up: dict[str, Any], environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Give a workspace from which training can start; ``up`` is there to run it."""
    assert up["pids"]
    folder = tmp_path_factory.mktemp("prepared")
    shop = make_shop(ShopConfig(num_users=200, num_items=100, events_per_user=20))
    events, items, _ = write_shop(shop, folder / "shop")
    files = ("--events", str(events), "--items", str(items))
    for words in (("prepare", "smoke", *files), ("embed", "smoke")):
        done = nextray(environment, *words, "--workspace", str(folder / "workspace"))
        assert done.returncode == 0, done.stderr
    return folder / "workspace"


def training(
    environment: dict[str, str], workspace: Path, *, num_epochs: int
) -> "subprocess.Popen[str]":
    """Submit a training, in a session of its own so that it can be interrupted."""
    epochs = ("--training.num-epochs", str(num_epochs), "--training.patience", str(num_epochs))
    command = ("submit", "train", "smoke", "--workspace", str(workspace), *epochs)
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *command],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def job_status(environment: dict[str, str], submission: str) -> str:
    jobs = json.loads(nextray(environment, "status", "--json").stdout)["jobs"]
    return next(str(job["status"]) for job in jobs if job["submission_id"] == submission)


def submitted(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    # Ray says first what it uploads.
    line = next(line for line in process.stderr if line.startswith("submitted "))
    return line.split()[1]


def test_interrupt_leaves_the_job_running_or_stops_it(
    environment: dict[str, str], prepared: Path
) -> None:
    with EpochWatch(prepared) as watch:
        process = training(environment, prepared, num_epochs=ENDLESS)
        submission = submitted(process)
        wait_until(lambda: watch.epochs, within_s=WITHIN_S, what="training has begun")
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 130
    assert f"left running; follow it with: nextray submit --follow {submission}" in shown
    assert "Traceback" not in shown
    assert job_status(environment, submission) == "RUNNING"
    follower = subprocess.Popen(
        [
            *(sys.executable, "-m", "jobs.cli", "submit", "--follow", submission),
            *("--on-interrupt", "stop"),
        ],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert follower.stderr is not None
    follower.stderr.readline()  # it follows the log
    follower.send_signal(signal.SIGINT)
    _, shown = follower.communicate(timeout=WITHIN_S)
    assert follower.returncode == 130, shown
    assert "stopping the job" in shown
    assert job_status(environment, submission) == "STOPPED"


def test_killed_job_goes_on_when_it_is_submitted_again(
    environment: dict[str, str], prepared: Path
) -> None:
    """The driver and every worker of it, at once: what is left are the checkpoints."""
    cluster = launcher.find(Path(environment["HOME"]) / ".nextray")
    assert cluster is not None

    def strike(epoch: int) -> None:
        if epoch == KILLED_AFTER:
            for process in launcher.processes(cluster):
                words = " ".join(process.cmdline())
                if "jobs.train" in words or "Train" in words:
                    kill(process.pid)

    with EpochWatch(prepared, on_epoch=strike) as first:
        process = training(environment, prepared, num_epochs=NUM_EPOCHS)
        _, shown = process.communicate(timeout=WITHIN_S)
    assert process.returncode not in (0, None), shown
    assert max(first.epochs) < NUM_EPOCHS - 1
    with EpochWatch(prepared) as second:
        process = training(environment, prepared, num_epochs=NUM_EPOCHS)
        _, shown = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, shown
    print(f"\nended in epoch {max(first.epochs)}, went on with epoch {second.epochs[0]}")  # noqa: T201
    # The newest epoch may have been reported and not yet kept.
    assert max(first.epochs) - 1 <= second.epochs[0] <= max(first.epochs) + 1
    assert max(second.epochs) == NUM_EPOCHS - 1


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


def test_down_ends_an_endpoint_whose_driver_was_killed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Proxies on every node, HAProxy, a head that keeps its state: nothing of them may stay."""
    make_release(tmp_path / "workspace")
    state = ("--keep-state", str(tmp_path / "state"), "--folder", str(tmp_path / "up"))
    up = ("up", "--profile", "cpu", "--num-cpus", "16", *state, "--json")
    port = free_port()
    done = nextray(environment, *up)
    assert done.returncode == 0, done.stderr
    try:
        address = json.loads(done.stdout)["address"]
        with (tmp_path / "log").open("wb") as log:
            serve = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jobs.cli", "serve", "laptop", "--profile", "cpu"),
                    *("--workspace", str(tmp_path / "workspace"), "--port", str(port)),
                ],
                cwd=ROOT,
                env=environment | {"RAY_ADDRESS": address},
                stderr=log,
            )
        wait_until(
            lambda: serve.poll() is not None or answers(port),
            within_s=WITHIN_S,
            what="the endpoint answers",
        )
        assert serve.poll() is None, (tmp_path / "log").read_text()
        cluster = launcher.find(tmp_path / "up")
        assert cluster is not None
        # HAProxy starts anew for every change of its backends: a look may come between two of it.
        wait_until(
            lambda: port in {n for _, n in launcher.listening(named(cluster, "haproxy"))},
            within_s=WITHIN_S,
            what="the cluster's HAProxy listens for the endpoint",
        )
        replicas = named(cluster, "ray::ServeReplica")
        between = [(host, n) for host, n in launcher.listening(replicas) if host in EVERYWHERE]
        listening = launcher.listening(launcher.processes(cluster))
        # Ray binds what replicas ask each other by to every address, and no setting moves it: it
        # is nobody else's, and it asks for the token.
        assert between
        others = set(listening) - set(between)
        assert {host.removeprefix("::ffff:") for host, _ in others} == {"127.0.0.1"}
        token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        for _, n in between:
            for wrong in ("", "nobody"):
                assert ask_replica(n, token=wrong) in REFUSED
            assert ask_replica(n, token=token) not in REFUSED
        serve.kill()
        serve.wait()
        # The driver is gone, and what it served is not: its cluster keeps it.
        assert answers(port)
    finally:
        done = nextray(environment, "down", "--folder", str(tmp_path / "up"), "--json")
    assert done.returncode == 0, done.stderr
    assert launcher.processes(cluster) == []
    assert port in json.loads(done.stdout)["ports"]
    for host, number in listening:
        near = "127.0.0.1" if host in EVERYWHERE else host.removeprefix("::ffff:")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((near, number), timeout=1)
    # The state is the next head's: it starts with it.
    again = nextray(environment, *up)
    try:
        assert again.returncode == 0, again.stderr
    finally:
        assert launcher.stop(tmp_path / "up") is not None


def named(cluster: launcher.Cluster, start: str) -> list[psutil.Process]:
    """Return the processes of a cluster that are there now and whose names begin so."""
    found = []
    for process in launcher.processes(cluster):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(start):
                found.append(process)
    return found


def ask_replica(port: int, *, token: str) -> grpc.StatusCode:
    """Return what a replica's gRPC port answers to a request that it cannot read."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        headers = (("authorization", f"Bearer {token}"),) if token else ()
        with pytest.raises(grpc.RpcError) as failed:
            ask(b"", metadata=headers, timeout=30, wait_for_ready=True)
    code: grpc.StatusCode = failed.value.code()
    return code


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=35).status_code == 200
    except httpx.HTTPError:
        return False
