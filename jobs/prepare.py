r"""Prepare a log: input files -> catalog/, events/, sequences/.

ray job submit --working-dir . -- python -m jobs.prepare laptop --workspace ./workspace \
    --events events.parquet --items items.parquet
"""

from collections.abc import Sequence

from cluster.runtime import connect
from jobs.command import InputArguments, run_job, with_columns
from jobs.stages import Fields, run_prepare


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job."""
    run_job(InputArguments, _work, argv, name="prepare", description=str(__doc__))


def _work(arguments: InputArguments) -> Fields:
    with connect(arguments.profile):
        return run_prepare(
            with_columns(arguments),
            arguments.profile,
            arguments.workspace,
            events=arguments.events,
            items=arguments.items,
            users=arguments.users,
        )


if __name__ == "__main__":
    main()
