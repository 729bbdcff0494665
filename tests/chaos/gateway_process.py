"""The process that owns the event log: the real gateway under uvicorn, without Ray around it.

python -m tests.chaos.gateway_process WORKSPACE PORT

Every line on stdin starts it, in a process of its own whose number is printed; it ends when killed.
Imports are paid once, so that thirty lives take seconds.
"""

import os
import sys
from pathlib import Path

import uvicorn

from rec.ranking.current import current_release
from tests.cluster.graph import running_graph


def main(words: list[str]) -> None:
    """Start as many lives as there are lines."""
    workspace, port = Path(words[0]), int(words[1])
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            serve(workspace, port)
            os._exit(0)
        print(pid, flush=True)  # noqa: T201
        os.waitpid(pid, 0)


def serve(workspace: Path, port: int) -> None:
    """Serve a workspace's release until killed."""
    with running_graph(workspace, current_release(workspace)) as graph:
        uvicorn.run(graph.app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1:])
