"""Drain served feedback into the log: feedback/events.db -> feedback/batches/.

ray job submit --working-dir . -- python -m jobs.ingest laptop --workspace ./workspace
"""

from collections.abc import Sequence

from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_ingest


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster. The next prepare or pipeline reads the batches."""
    run_job(Arguments, _work, argv, name="ingest", description=str(__doc__))


def _work(arguments: Arguments) -> Fields:
    return run_ingest(arguments.workspace)


if __name__ == "__main__":
    main()
