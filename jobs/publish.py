"""Publish the current release and its items' embeddings to an object store, for other hosts.

nextray publish --workspace ./workspace --store s3://bucket/shop
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.progress import console
from jobs.shell import check_workspace, run_command


@dataclass(frozen=True, kw_only=True)
class PublishArguments:
    """Say what, and where to."""

    store: str
    """s3://, gs:// or abfs:// URI, or a folder; credentials come from the environment."""
    workspace: Path = Path("workspace")
    """Root of all artifacts."""
    json: bool = False
    """Print one JSON object on stdout."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(PublishArguments, _work, argv, name="publish", description=str(__doc__))


def _work(arguments: PublishArguments) -> None:
    from rec.stages.publishing import publish  # seconds that --help need not pay

    check_workspace(arguments.workspace)
    moved = publish(arguments.workspace, arguments.store)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(moved)))  # noqa: T201
    else:
        console().print(
            f"release {moved.release}: {moved.files} files, {moved.copied} of them were not yet in "
            f"{arguments.store}"
        )


if __name__ == "__main__":
    main()
