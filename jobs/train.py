"""Train the towers: sequences/, embeddings/ -> models/.

ray job submit --working-dir . -- python -m jobs.train laptop --workspace ./workspace

``--init-from current`` goes on from the promoted release and learns what has happened since; its
test part lies after the release's log. ``jobs.loop --incremental`` does so and promotes what is not
worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.runtime import connect
from jobs.command import Arguments, run_job
from jobs.recipes import Recipe
from jobs.stages import Fields, run_train, tested_since
from rec.errors import ConfigError
from rec.ranking.current import current_release


@dataclass(frozen=True, kw_only=True)
class TrainArguments(Arguments):
    """Add whether to go on."""

    resume: bool = False
    """Go on from the newest checkpoint of the same settings and inputs."""
    init_from: str | None = None
    """Release whose towers go on learning from the events since, ``current`` or a name of
    ``releases/``; its ranker's trees stay as they are. Trained anew if absent."""
    newest_hours: float = 24.0
    """Newest part of the log to test on, with ``--init-from``; at most half of the events since the
    release."""

    def __post_init__(self) -> None:
        if not self.newest_hours > 0:
            raise ConfigError(f"--newest-hours must be > 0, got {self.newest_hours}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job."""
    run_job(TrainArguments, _work, argv, name="train", description=str(__doc__))


def _work(arguments: TrainArguments) -> Fields:
    workspace, name = arguments.workspace, arguments.init_from
    recipe: Recipe = arguments.recipe
    with connect(arguments.profile):
        if name is not None:
            name = current_release(workspace).name if name == "current" else name
            recipe = tested_since(recipe, workspace, name, hours=arguments.newest_hours)
        return run_train(
            recipe, arguments.profile, workspace, resume=arguments.resume, init_from=name
        )


if __name__ == "__main__":
    main()
