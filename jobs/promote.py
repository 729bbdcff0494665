"""Promote the newest evaluated index: indexes/, reports/ -> releases/ and current.

ray job submit --working-dir . -- python -m jobs.promote laptop --workspace ./workspace
"""

from collections.abc import Sequence

from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_promote


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster."""
    run_job(Arguments, _work, argv, name="promote", description=str(__doc__))


def _work(arguments: Arguments) -> Fields:
    return run_promote(arguments.workspace)


if __name__ == "__main__":
    main()
