"""Print what this installation consists of: a bill of materials (CycloneDX 1.5).

nextray sbom > sbom.json
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.sbom import bill_of_materials
from jobs.shell import run_command


@dataclass(frozen=True, kw_only=True)
class SbomArguments:
    """Say what is counted in."""

    extra: tuple[str, ...] = ()
    """Optional parts of nextray beside what it always needs (zh, redis, ...)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(SbomArguments, _work, argv, name="sbom", description=str(__doc__))


def _work(arguments: SbomArguments) -> None:
    print(json.dumps(bill_of_materials(arguments.extra), indent=1, sort_keys=True))  # noqa: T201


if __name__ == "__main__":
    main()
