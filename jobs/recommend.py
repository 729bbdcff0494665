r"""Make batch lists: current, sequences/ -> one Parquet file.

ray job submit --working-dir . -- python -m jobs.recommend laptop --workspace ./workspace \
    --k 10 --output lists.parquet
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.runtime import connect
from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_recommend
from rec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RecommendArguments(Arguments):
    """Add whose lists, how long, and where to."""

    output: Path
    """Parquet file with user_id, position, item_id, score."""
    users: str | None = None
    """File with a column user_id; all users of the log, under stored ids, if absent."""
    k: int = 10
    """Places of each list."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"--k must be >= 1, got {self.k}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job."""
    run_job(RecommendArguments, _work, argv, name="recommend", description=str(__doc__))


def _work(arguments: RecommendArguments) -> Fields:
    with connect(arguments.profile):
        return run_recommend(
            arguments.profile,
            arguments.workspace,
            users=arguments.users,
            k=arguments.k,
            output=arguments.output,
            exclude_seen=arguments.recipe.ranking.exclude_seen,
        )


if __name__ == "__main__":
    main()
