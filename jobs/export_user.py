"""Export all that a workspace holds of a user, as one JSON file.

python -m jobs.export_user laptop --workspace ./workspace --user-id alice --output alice.json
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.command import Arguments, run_job
from jobs.stages import Fields
from rec.stages.exporting import export_user


@dataclass(frozen=True, kw_only=True)
class ExportArguments(Arguments):
    """Name the user and the file."""

    user_id: str
    """Id as the shop knows it, not a pseudonym."""
    output: Path
    """JSON file to write."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster."""
    run_job(ExportArguments, _work, argv, name="export_user", description=str(__doc__))


def _work(arguments: ExportArguments) -> Fields:
    counts = export_user(arguments.workspace, arguments.user_id, output=arguments.output)
    return {"outputs": {"export": str(arguments.output)}, "skipped": False, "counts": counts}


if __name__ == "__main__":
    main()
