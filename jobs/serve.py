"""Serve the current release over HTTP: current, sequences/ -> feedback/events.db.

python -m jobs.serve laptop --workspace ./workspace
"""

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.progress import console
from cluster.runtime import connect
from cluster.serve.keys import ADMIN_KEY_FILE, ensure_admin_key
from jobs.command import Arguments, run_job
from jobs.shell import check_port
from rec.ranking.feedback.store_place import with_password
from rec.stages.moving_feedback import use_store

PASSWORD_VARIABLE = "NEXTRAY_HISTORY_PASSWORD"


@dataclass(frozen=True, kw_only=True)
class ServeArguments(Arguments):
    """Add where to listen."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback opens the service to others."""
    port: int = 8000
    """TCP port."""
    history: str | None = None
    """Where events and histories are kept from now on: redis://HOST:PORT/DB, for several machines.
    What the workspace's SQLite files hold moves there; every job finds it. As it was if absent. A
    password that nobody should read in the list of processes comes from NEXTRAY_HISTORY_PASSWORD.
    """

    index_shards: int = 1
    """Parts that the index of a large catalog is held in, each on replicas of its own. Lists stay
    the same. For releases without a second-stage ranker, which looks at every item itself."""

    def __post_init__(self) -> None:
        check_port(self.port)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    run_job(ServeArguments, _work, argv, name="serve", description=str(__doc__))


def _work(arguments: ServeArguments) -> dict[str, Any]:
    if arguments.history is not None:
        url = with_password(arguments.history, os.environ.get(PASSWORD_VARIABLE))
        moved = use_store(arguments.workspace, url)
        if moved:
            console().print(f"{moved} events moved out of the workspace's SQLite files")
    key, is_new = ensure_admin_key(arguments.workspace)
    # On a terminal alone: what a service prints is kept in logs.
    if is_new and console().is_terminal:
        console().print(f"admin key, shown once: {key}", soft_wrap=True)
    console().print(f"admin key file: {arguments.workspace / ADMIN_KEY_FILE}", soft_wrap=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with connect(arguments.profile):
        from cluster.serve.app import serving  # 3 s that --help need not pay

        with serving(
            arguments.workspace,
            profile=arguments.profile,
            host=arguments.host,
            port=arguments.port,
            index_shards=arguments.index_shards,
        ) as url:
            console().print(f"serving {url}  (page: {url}/  docs: {url}/docs)  Ctrl-C stops")
            stop.wait()
    return {"outputs": {"feedback": str(arguments.workspace / "feedback")}, "skipped": False}


if __name__ == "__main__":
    main()
