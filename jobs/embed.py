"""Embed the catalog and the queries: catalog/, sequences/ -> embeddings/.

ray job submit --working-dir . -- python -m jobs.embed laptop --workspace ./workspace
"""

from collections.abc import Sequence

from cluster.runtime import connect
from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_embed


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job."""
    run_job(Arguments, _work, argv, name="embed", description=str(__doc__))


def _work(arguments: Arguments) -> Fields:
    with connect(arguments.profile):
        return run_embed(arguments.recipe, arguments.profile, arguments.workspace)


if __name__ == "__main__":
    main()
