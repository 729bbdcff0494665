"""Write generated summaries, tags, languages and sentiments: catalog/ -> enrichments/.

ray job submit --working-dir . -- python -m jobs.enrich laptop --workspace ./workspace
"""

from collections.abc import Sequence

from cluster.runtime import connect
from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_enrich


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job."""
    run_job(Arguments, _work, argv, name="enrich", description=str(__doc__))


def _work(arguments: Arguments) -> Fields:
    with connect(arguments.profile):
        return run_enrich(arguments.recipe, arguments.profile, arguments.workspace)


if __name__ == "__main__":
    main()
