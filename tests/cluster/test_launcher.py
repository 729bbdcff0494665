"""A Ray of our own is started, reached with the token alone, and ended without a trace."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from cluster import launcher
from cluster.doctor import examine
from cluster.resources import CPU, LAPTOP, object_store_bytes
from cluster.runtime import free_port


@pytest.mark.ray
@pytest.mark.slow
def test_cluster_is_ours_alone_and_goes_without_a_trace(tmp_path: Path) -> None:
    cluster = launcher.start(LAPTOP, folder=tmp_path)
    try:
        own = launcher.processes(cluster)
        assert set(cluster.pids) <= {process.pid for process in own}
        ports = {port for _, port in launcher.listening(own)}
        hosts = {host.removeprefix("::ffff:") for host, _ in launcher.listening(own)}
        assert hosts == {"127.0.0.1"}
        assert len(ports) >= 6  # store, dashboard, node and object manager, agents
        jobs = f"{cluster.dashboard}/api/jobs/"
        wrong = {"Authorization": "Bearer nobody"}
        for method in ("GET", "POST", "PUT", "DELETE"):
            assert httpx.request(method, jobs).status_code == 401
            assert httpx.request(method, jobs, headers=wrong).status_code == 403
        with pytest.raises(launcher.ConfigError, match="up already"):
            launcher.start(LAPTOP, folder=tmp_path)
    finally:
        stopped = launcher.stop(tmp_path)
    assert stopped is not None
    assert set(stopped.ports) >= ports
    assert launcher.processes(cluster) == []
    for port in ports:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)
    assert not Path(cluster.temp_folder).exists()
    assert launcher.stop(tmp_path) is None


_LISTEN = """
import signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
while True:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if "share" in sys.argv:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind(("127.0.0.1", int(sys.argv[1])))
        break
    except OSError:
        time.sleep(0.01)
listener.listen()
print("listens", flush=True)
time.sleep(600)
"""


def listener(port: int, *words: str, mark: str = "") -> "subprocess.Popen[str]":
    """Start a process that listens on a port as soon as it can get it."""
    return subprocess.Popen(
        [sys.executable, "-c", _LISTEN, str(port), *words],
        env={**os.environ, **({launcher.MARK: mark} if mark else {})},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("is_ours", [True, False])
def test_port_that_a_stranger_took_meanwhile_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_ours: bool
) -> None:
    """Whoever listened there all the time, without our mark, is another matter."""
    monkeypatch.setattr(launcher, "ASK_S", 2.0)
    cluster = launcher.Cluster(
        mark="a test", address="", dashboard="", temp_folder=str(tmp_path / "temp"), pids=()
    )
    launcher.write_json(tmp_path / launcher.STATE_FILE, cluster)
    port = free_port()
    words = ("share",) if is_ours else ()
    own = listener(port, *words, mark="a test")
    assert own.stdout is not None
    own.stdout.readline()
    other = listener(port, *words)
    assert other.stdout is not None
    try:
        if is_ours:
            other.stdout.readline()
            with pytest.raises(launcher.ConfigError, match=rf"none and ports \[{port}\]"):
                launcher.stop(tmp_path)
        else:
            stopped = launcher.stop(tmp_path)
            assert stopped is not None
            assert stopped.ports == (port,)
    finally:
        for process in (own, other):
            process.kill()
            process.communicate()


def test_object_store_is_bounded() -> None:
    memory = psutil.virtual_memory().total
    assert object_store_bytes(LAPTOP) <= min(0.3 * memory, 512 * 2**20)
    assert object_store_bytes(CPU) <= 0.3 * memory


def test_start_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_run_ray_start", _fail)
    with pytest.raises(launcher.ConfigError, match="doctor"):
        launcher.start(LAPTOP, folder=tmp_path)
    assert launcher.find(tmp_path) is None


def _fail(*_arguments: object) -> None:
    raise launcher.ConfigError("Ray did not start (it said nothing): run `nextray doctor`")


def test_doctor_names_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    switch = "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE"
    found = {
        finding.name: finding
        for finding in examine(
            workspace=tmp_path,
            folder=tmp_path,
            environment={"RAY_AUTH_TOKEN_PATH": str(token), switch: "1"},
        )
    }
    assert found["token"].state == "problem"
    assert found["token"].advice == f"others can read it: chmod 600 {token}"
    assert (found["unsafe switches"].state, found["unsafe switches"].found) == ("problem", switch)
    assert found["ray"].state == found["python"].state == "ok"
    assert "secret" not in repr(found)


def test_doctor_sees_a_port_in_use_and_a_cluster_that_died(tmp_path: Path) -> None:
    gone = launcher.Cluster(
        mark="nobody", address="127.0.0.1:1", dashboard="", temp_folder=str(tmp_path), pids=()
    )
    launcher.write_json(tmp_path / launcher.STATE_FILE, gone)
    found = {f.name: f for f in examine(workspace=tmp_path, folder=tmp_path, environment={})}
    assert found["leftovers"].state == "problem"
    assert "nextray down" in found["leftovers"].advice
