"""End the canary, or go back to the release before the current one: current -> current.

ray job submit --working-dir . -- python -m jobs.rollback laptop --workspace ./workspace
"""

from collections.abc import Sequence

from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_rollback


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster."""
    run_job(Arguments, _work, argv, name="rollback", description=str(__doc__))


def _work(arguments: Arguments) -> Fields:
    return run_rollback(arguments.workspace)


if __name__ == "__main__":
    main()
