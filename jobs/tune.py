"""Search hyper-parameters of the sequence model: sequences/, embeddings/ -> models/tuning/.

ray job submit --working-dir . -- python -m jobs.tune laptop --workspace ./workspace

Prints the flags of the best configuration; give them to `jobs.train`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.runtime import connect
from cluster.tune.search import TuneConfig
from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_tune


@dataclass(frozen=True, kw_only=True)
class TuneArguments(Arguments):
    """Add how long to search."""

    tune: TuneConfig = field(default_factory=TuneConfig)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job."""
    run_job(TuneArguments, _work, argv, name="tune", description=str(__doc__))


def _work(arguments: TuneArguments) -> Fields:
    with connect(arguments.profile):
        return run_tune(
            arguments.recipe, arguments.profile, arguments.workspace, config=arguments.tune
        )


if __name__ == "__main__":
    main()
