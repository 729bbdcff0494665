"""Look at this machine: what it gives, what is in the way, what to do. Exits with 2 on a problem.

nextray doctor
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.doctor import examine
from cluster.progress import console
from jobs.shell import BAD_INPUT, run_command

_STYLE = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Say where to look."""

    workspace: Path = Path("workspace")
    """Whose disk is looked at."""
    folder: Path = Path("~/.nextray")
    """The folder that `up` was given."""
    json: bool = False
    """Print one JSON object on stdout."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(DoctorArguments, _work, argv, name="doctor", description=str(__doc__))


def _work(arguments: DoctorArguments) -> None:
    findings = examine(workspace=arguments.workspace, folder=arguments.folder.expanduser())
    if arguments.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"findings": rows}))  # noqa: T201
    for finding in () if arguments.json else findings:
        style = _STYLE[finding.state]
        advice = f"  -> {finding.advice}" if finding.advice else ""
        console().print(f"{finding.state:<8}", style=style, end="")
        console().print(
            f" {finding.name}: {finding.found}{advice}", markup=False, highlight=False,
            soft_wrap=True,
        )  # fmt: skip
    if any(finding.state == "problem" for finding in findings):
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
