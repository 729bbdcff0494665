"""Evaluate the newest index against the baselines: indexes/, sequences/ -> reports/.

ray job submit --working-dir . -- python -m jobs.evaluate laptop --workspace ./workspace
"""

from collections.abc import Sequence

from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_evaluate
from jobs.tables import evaluation_progress, print_metrics


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster."""
    run_job(Arguments, _work, argv, name="evaluate", description=str(__doc__))


def _work(arguments: Arguments) -> Fields:
    with evaluation_progress() as on_progress:
        fields = run_evaluate(arguments.recipe, arguments.workspace, on_progress=on_progress)
    print_metrics(fields["metrics"])
    return fields


if __name__ == "__main__":
    main()
