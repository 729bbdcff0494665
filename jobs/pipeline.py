r"""Run all stages up to a promoted release: input files -> current.

ray job submit --working-dir . -- python -m jobs.pipeline laptop --workspace ./workspace \
    --events events.parquet --items items.parquet
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.command import InputArguments, run_job, with_columns
from jobs.flow import run_stages


@dataclass(frozen=True, kw_only=True)
class PipelineArguments(InputArguments):
    """Add whether to go on."""

    resume: bool = False
    """Let training go on from its newest checkpoint."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job."""
    run_job(PipelineArguments, _work, argv, name="pipeline", description=str(__doc__))


def _work(arguments: PipelineArguments) -> dict[str, Any]:
    stages = run_stages(
        with_columns(arguments),
        arguments.workspace,
        name=arguments.recipe_name,
        events=arguments.events,
        items=arguments.items,
        users=arguments.users,
        resume=arguments.resume,
    )
    return {
        "stages": stages,
        "outputs": stages[-1]["outputs"],
        "skipped": all(stage["skipped"] for stage in stages),
    }


if __name__ == "__main__":
    main()
