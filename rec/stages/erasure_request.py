"""Erasures asked for over HTTP: a process of their own does them, files say how far they are.

Rewriting artifacts takes as long as there are events, which a replica that answers lists cannot
give; and who has the event log open must not read its file past SQLite, which the search at the end
does. The process outlives who started it and does what it was asked; if it was killed itself, an
erasure stays pending until it is asked for again. Whose it is comes by a pipe and stands in no
file.
"""

import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rec.artifacts import write_json
from rec.data.tombstones import ERASURES
from rec.errors import RecError
from rec.stages.erasing import erase

PENDING, DONE, FAILED = "pending", "done", "failed"
_log = logging.getLogger(__name__)


class Eraser:
    """Have users erased from one workspace, one after the other; safe for threads."""

    def __init__(self, workspace: Path) -> None:
        """Start nothing yet: most services never erase anybody."""
        self._workspace = workspace
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, user_id: str) -> str:
        """Begin to take a user out of the workspace; return the request's id.

        Raises:
            OSError: the workspace cannot be written to, or no process can be started.
        """
        request_id = secrets.token_hex(8)
        _write(self._workspace, request_id, {"state": PENDING})
        asked = {"workspace": str(self._workspace), "request_id": request_id, "user_id": user_id}
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        return request_id

    def close(self) -> None:
        """Let the process end once it has done what it was asked."""
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()


def _start() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # What ends the service does not end an erasure.
        start_new_session=True,
    )


def read_erasure(workspace: Path, request_id: str) -> Mapping[str, Any] | None:
    """Return ``state``, ``at_ms`` and, once done, ``receipt``; ``None`` for an unknown request."""
    path = _path(workspace, request_id)
    if not path.is_file():
        return None
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def run_request(workspace: Path, request_id: str, user_id: str) -> None:
    """Erase a user and write down how it ended: done only if no byte is left."""
    try:
        _, receipt = erase(workspace, [user_id])
    except (RecError, OSError) as error:
        _log.error("an erasure failed: %s", error)
        _write(workspace, request_id, {"state": FAILED})
        return
    state = FAILED if receipt["left"] else DONE
    _write(workspace, request_id, {"state": state, "receipt": receipt})


def _path(workspace: Path, request_id: str) -> Path:
    return workspace / ERASURES / f"request-{request_id}.json"


def _write(workspace: Path, request_id: str, content: Mapping[str, Any]) -> None:
    at_ms = time.time_ns() // 1_000_000
    write_json(_path(workspace, request_id), {"at_ms": at_ms, **content})


def _main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        run_request(Path(asked["workspace"]), asked["request_id"], asked["user_id"])


if __name__ == "__main__":
    _main()
