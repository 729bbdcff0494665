"""Make, list, rotate and revoke the API keys of a workspace: a running service obeys at once.

nextray keys add shop-web --scope read --per-minute 6000 --workspace ./workspace

nextray keys list --workspace ./workspace

nextray keys rotate shop-web --grace-s 3600 --workspace ./workspace

nextray keys revoke shop-web --workspace ./workspace
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cluster.progress import console
from cluster.serve.keys import Scope, add_key, list_keys, revoke_key, rotate_key
from jobs.refusals import in_one_line
from jobs.shell import check_workspace, stop
from rec.errors import ConfigError, RecError


@dataclass(frozen=True, kw_only=True)
class KeysArguments:
    """Say what to do with which key."""

    action: tyro.conf.Positional[Literal["add", "list", "rotate", "revoke"]]
    """What to do."""
    name: tyro.conf.Positional[str] = ""
    """Name of the key; not for list."""
    scope: Scope = "read"
    """What a new key may do: read lists, also write events, or everything."""
    per_minute: int | None = None
    """Requests a minute of a new key, counted by each gateway replica; no limit if absent."""
    grace_s: float = 0.0
    """Seconds that the old key works on after rotate; raise it above the time a roll-out takes."""
    workspace: Path = Path("workspace")
    """Root of all artifacts."""
    json: bool = False
    """Print one JSON object on stdout."""

    def __post_init__(self) -> None:
        check_workspace(self.workspace)
        if self.action != "list" and not self.name:
            raise ConfigError(f"expected the name of the key to {self.action}, got none")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    prog = "nextray keys"
    try:
        with in_one_line(prog, argv):
            arguments = tyro.cli(KeysArguments, args=argv, prog=prog, description=str(__doc__))
        _work(arguments)
    except RecError as error:
        stop(error)


def _work(arguments: KeysArguments) -> None:
    """Do it; what is asked for goes to stdout, the rest is for a reader."""
    workspace, name = arguments.workspace, arguments.name
    if arguments.action == "add":
        key = add_key(workspace, name=name, scope=arguments.scope, per_minute=arguments.per_minute)
        console().print(f"key {name!r} may {arguments.scope}; it is shown once:")
        row = {"name": name, "scope": arguments.scope, "key": key}
        print(json.dumps(row) if arguments.json else key)  # noqa: T201
    elif arguments.action == "rotate":
        key = rotate_key(workspace, name=name, grace_s=arguments.grace_s)
        console().print(f"the old key {name!r} ends in {arguments.grace_s:g} s; the new one, once:")
        print(json.dumps({"name": name, "key": key}) if arguments.json else key)  # noqa: T201
    elif arguments.action == "list":
        rows = [dataclasses.asdict(entry) for entry in list_keys(workspace)]
        if arguments.json:
            print(json.dumps({"keys": rows}))  # noqa: T201
        for row in () if arguments.json else rows:
            print(f"{row['scope']:<6} {row['name']}")  # noqa: T201
    else:
        entry = revoke_key(workspace, name=name)
        console().print(f"key {name!r} is revoked")
        if arguments.json:
            print(json.dumps({"revoked": dataclasses.asdict(entry)}))  # noqa: T201


if __name__ == "__main__":
    main()
