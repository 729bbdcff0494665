"""Make a workspace of a backup; every file is compared with its sha256 first.

Its feedback comes back into SQLite files, wherever it was before.

``nextray serve --history redis://HOST:PORT/DB`` moves it to a server.

nextray restore --backup backups/monday --workspace ./workspace
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.progress import console
from jobs.shell import run_command


@dataclass(frozen=True, kw_only=True)
class RestoreArguments:
    """Say what, and where to."""

    backup: Path
    """Folder that `nextray backup` wrote."""
    workspace: Path
    """New folder."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(RestoreArguments, _work, argv, name="restore", description=str(__doc__))


def _work(arguments: RestoreArguments) -> None:
    from rec.stages.backing_up import restore  # seconds that --help need not pay

    content = restore(arguments.backup, arguments.workspace)
    console().print(
        f"restored {len(content['files'])} files of {content['created_at']}, the log up to event "
        f"{content['last_seq']}; {content['erased_again']} rows of users erased since are out again"
    )


if __name__ == "__main__":
    main()
