"""Train the towers: sequences/, embeddings/ -> models/.

ray job submit --working-dir . -- python -m jobs.train laptop --workspace ./workspace
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.runtime import connect
from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_train


@dataclass(frozen=True, kw_only=True)
class TrainArguments(Arguments):
    """Add whether to go on."""

    resume: bool = False
    """Go on from the newest checkpoint of the same settings and inputs."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job."""
    run_job(TrainArguments, _work, argv, name="train", description=str(__doc__))


def _work(arguments: TrainArguments) -> Fields:
    with connect(arguments.profile):
        return run_train(
            arguments.recipe, arguments.profile, arguments.workspace, resume=arguments.resume
        )


if __name__ == "__main__":
    main()
