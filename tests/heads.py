"""A Ray head of a test's own: loopback, free ports, a token, and no process left behind."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cluster.runtime import free_port
from tests.processes import end_session

LOOPBACK = "127.0.0.3"
"""Loopback too, but not the address of the cluster that other tests share."""
PORT_OPTIONS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
    "ray-client-server-port",
)
"""Every port that Ray would otherwise take from a fixed place or range."""
START_WITHIN_S = 90


@dataclass(frozen=True, kw_only=True)
class Head:
    """Describe a running head."""

    jobs_url: str
    address: str
    """``host:port`` that a driver connects to."""
    token: str
    folder: Path
    """Ray's temporary folder."""
    environment: Mapping[str, str]
    """What a client of it needs: token, jobs address, this interpreter first on the path."""


@contextmanager
def local_head(*, num_cpus: int = 2, extra: Mapping[str, str] | None = None) -> Iterator[Head]:
    """Run ``ray start --head`` while a block runs, then end what it started and nothing else.

    Args:
        num_cpus: cores that it offers.
        extra: variables that all its processes find in their environment.
    """
    # Unix sockets lie in it, and their names are short: not pytest's own deep folder.
    folder = Path(tempfile.mkdtemp(prefix="nr-"))
    token = secrets.token_hex(32)
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token, encoding="utf-8")
    ports = free_ports(len(PORT_OPTIONS))
    jobs_url = f"http://127.0.0.1:{ports[PORT_OPTIONS.index('dashboard-port')]}"
    environment = _environment(token_file, jobs_url) | dict(extra or {})
    address = f"{LOOPBACK}:{ports[PORT_OPTIONS.index('port')]}"
    command = [
        *("ray", "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--node-ip-address={LOOPBACK}", "--dashboard-host=127.0.0.1"),
        *(f"--num-cpus={num_cpus}", "--object-store-memory=200000000"),
        f"--temp-dir={folder / 'ray'}",
        *(f"--{name}={port}" for name, port in zip(PORT_OPTIONS, ports, strict=True)),
    ]
    log = (folder / "head.log").open("wb")
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        _wait_for_jobs(jobs_url, token, process, log=folder / "head.log")
        yield Head(
            jobs_url=jobs_url,
            address=address,
            token=token,
            folder=folder / "ray",
            environment=environment,
        )
    finally:
        end_session(process.pid)
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(number: int) -> list[int]:
    """Return TCP ports that nobody listens on now, all different."""
    found: set[int] = set()
    while len(found) < number:
        found.add(free_port())
    return sorted(found)


def _environment(token_file: Path, jobs_url: str) -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        # Nothing of the tests' own cluster, and our packages only from where a job finds them.
        if not name.startswith("RAY_") and name != "PYTHONPATH"
    }
    return environment | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_API_SERVER_ADDRESS": jobs_url,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _wait_for_jobs(url: str, token: str, process: subprocess.Popen[bytes], *, log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    headers = {"Authorization": f"Bearer {token}"}
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            if httpx.get(f"{url}/api/jobs/", headers=headers).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"no jobs API within {START_WITHIN_S} s: {log.read_text()}")
