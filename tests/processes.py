"""Processes that tests start, watch and kill: by session, because Ray's workers leave the group."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

PROC = Path("/proc")
END_WITHIN_S = 20


def wait_until(is_so: Callable[[], object], *, within_s: float, what: str) -> None:
    """Return as soon as something is so.

    Raises:
        AssertionError: it was not in time.
    """
    deadline = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(0.002)


def session_pids(session: int) -> list[int]:
    """Return the living processes of a session, zombies left out."""
    return [pid for pid, fields in _all() if int(fields[3]) == session and fields[0] != "Z"]


def descendants(*roots: int) -> list[int]:
    """Return the living processes that some processes have started, directly or not."""
    children: dict[int, list[int]] = {}
    for pid, fields in _all():
        children.setdefault(int(fields[1]), []).append(pid)
    found: list[int] = []
    waiting = [pid for root in roots for pid in children.get(root, [])]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def title(pid: int) -> str:
    """Return a process's command line, which Ray rewrites to say what it does; empty if gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def kill(pid: int) -> None:
    """Kill a process with SIGKILL, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def end_session(session: int) -> None:
    """Kill all processes of a session."""
    deadline = time.monotonic() + END_WITHIN_S
    while (pids := session_pids(session)) and time.monotonic() < deadline:
        for pid in pids:
            kill(pid)


def _all() -> list[tuple[int, list[str]]]:
    """Return every process with the fields of ``stat`` behind its name: state, parent, ..."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except OSError:
            continue
        found.append((int(folder.name), text[text.rindex(")") + 2 :].split()))
    return found
