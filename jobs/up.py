"""Start a Ray that stays: token authentication, loopback only, no usage statistics.

nextray up

nextray up --profile cpu --node-address 10.0.0.5

nextray up --profile cpu --node-address 10.0.0.6 --address 10.0.0.5:6379
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import launcher
from cluster.progress import console
from cluster.resources import PROFILES, ProfileName
from cluster.runtime import SELF
from jobs.shell import run_command


@dataclass(frozen=True, kw_only=True)
class UpArguments:
    """Say what to start, and who may reach it."""

    profile: ProfileName = "laptop"
    """Bounds the object store: at most 30 % of the memory and of /dev/shm, on a laptop 512 MiB."""
    node_address: str = SELF
    """This machine's address; anything but loopback opens Ray's ports to others, who need the
    token. The dashboard stays on loopback."""
    address: str | None = None
    """HOST:PORT of a running head that this machine joins; a new head if absent."""
    num_cpus: int | None = None
    """Cores that this node offers; those of the machine if absent, 0 keeps work off a head."""
    keep_state: Path | None = None
    """Folder on this machine's disk where the head keeps what it knows (RocksDB): lost and started
    again with it, it finds its nodes, actors and endpoints. Without it they are lost too."""
    folder: Path = Path("~/.nextray")
    """Where `down` and `status` find the cluster; one a folder."""
    json: bool = False
    """Print one JSON object on stdout."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(UpArguments, _work, argv, name="up", description=str(__doc__))


def _work(arguments: UpArguments) -> None:
    # Before Ray is imported: it decides then whether this machine may be called by its loopback.
    os.environ["RAY_ADDRESS"] = arguments.address or f"{arguments.node_address}:0"
    cluster = launcher.start(
        PROFILES[arguments.profile],
        folder=arguments.folder.expanduser(),
        node_address=arguments.node_address,
        join=arguments.address,
        num_cpus=arguments.num_cpus,
        keep_state=arguments.keep_state,
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(cluster)))  # noqa: T201
        return
    console().print(f"up: {len(cluster.pids)} processes at {cluster.address}")
    if arguments.address is None:
        console().print(f"jobs run there with: export RAY_ADDRESS={cluster.address}")
        console().print(f"or: nextray submit JOB RECIPE ...  (dashboard: {cluster.dashboard})")
    console().print("end it with: nextray down")


if __name__ == "__main__":
    main()
