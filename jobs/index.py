"""Index the newest model: models/, embeddings/, catalog/ -> indexes/.

ray job submit --working-dir . -- python -m jobs.index laptop --workspace ./workspace
"""

from collections.abc import Sequence

from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_index


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster."""
    run_job(Arguments, _work, argv, name="index", description=str(__doc__))


def _work(arguments: Arguments) -> Fields:
    return run_index(arguments.recipe, arguments.workspace)


if __name__ == "__main__":
    main()
