"""The process that owns the event log: the real gateway under uvicorn, without Ray around it.

python -m tests.chaos.gateway_process WORKSPACE PORT
"""

import sys
from pathlib import Path

import uvicorn

from rec.ranking.recommender import current_release
from tests.cluster.graph import running_graph


def main(words: list[str]) -> None:
    """Serve a workspace's release until killed."""
    workspace, port = Path(words[0]), int(words[1])
    with running_graph(workspace, current_release(workspace)) as graph:
        uvicorn.run(graph.app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1:])
