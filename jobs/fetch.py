"""Fetch the release that an object store points to, and make it this workspace's current one.

nextray fetch --store s3://bucket/shop --workspace ./workspace
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.progress import console
from jobs.shell import check_workspace, run_command


@dataclass(frozen=True, kw_only=True)
class FetchArguments:
    """Say from where, and where to."""

    store: str
    """What `nextray publish` was given; credentials come from the environment."""
    workspace: Path = Path("workspace")
    """Root of all artifacts; made if there is none."""
    cache: Path = Path("~/.cache/nextray/files")
    """Files of this machine by sha256: each is fetched once, whatever the workspace."""
    json: bool = False
    """Print one JSON object on stdout."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(FetchArguments, _work, argv, name="fetch", description=str(__doc__))


def _work(arguments: FetchArguments) -> None:
    from rec.stages.publishing import fetch  # seconds that --help need not pay

    check_workspace(arguments.workspace)
    moved = fetch(arguments.workspace, arguments.store, cache=arguments.cache.expanduser())
    if arguments.json:
        print(json.dumps(dataclasses.asdict(moved)))  # noqa: T201
    else:
        console().print(
            f"release {moved.release} is current: {moved.files} files, {moved.copied} of them "
            f"fetched, the others were in {arguments.cache}"
        )


if __name__ == "__main__":
    main()
