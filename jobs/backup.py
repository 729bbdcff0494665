"""Back up a workspace while it is written to: -> a folder with backup.json.

nextray backup --workspace ./workspace --output backups/monday
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.progress import console
from jobs.shell import run_command


@dataclass(frozen=True, kw_only=True)
class BackupArguments:
    """Say what, and where to."""

    output: Path
    """New folder; on the same file system finished artifacts take no space."""
    workspace: Path = Path("workspace")
    """Root of all artifacts."""
    json: bool = False
    """Print one JSON object on stdout."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(BackupArguments, _work, argv, name="backup", description=str(__doc__))


def _work(arguments: BackupArguments) -> None:
    from rec.stages.backing_up import backup  # seconds that --help need not pay

    content = backup(arguments.workspace, arguments.output)
    if arguments.json:
        print(json.dumps({**content, "files": len(content["files"])}))  # noqa: T201
    else:
        console().print(
            f"{len(content['files'])} files, the log up to event {content['last_seq']}: "
            f"{arguments.output}"
        )


if __name__ == "__main__":
    main()
