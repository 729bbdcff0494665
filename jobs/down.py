"""End what `nextray up` started, and nothing else; prove that no process and no port is left.

nextray down
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import launcher
from cluster.progress import console
from jobs.shell import run_command


@dataclass(frozen=True, kw_only=True)
class DownArguments:
    """Say which cluster."""

    folder: Path = Path("~/.nextray")
    """The folder that `up` was given."""
    json: bool = False
    """Print one JSON object on stdout."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(DownArguments, _work, argv, name="down", description=str(__doc__))


def _work(arguments: DownArguments) -> None:
    stopped = launcher.stop(arguments.folder.expanduser())
    if arguments.json:
        print(json.dumps(dataclasses.asdict(stopped) if stopped else {"processes": 0}))  # noqa: T201
    elif stopped is None:
        console().print("nothing was up")
    else:
        console().print(
            f"down: {stopped.processes} processes ended, {len(stopped.ports)} ports free, none left"
        )


if __name__ == "__main__":
    main()
