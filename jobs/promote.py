"""Promote the newest evaluated index: indexes/, reports/ -> releases/ and current.

ray job submit --working-dir . -- python -m jobs.promote laptop --workspace ./workspace

With ``--canary 0.1`` a running service answers a tenth of the users from it and counts each
release's lists, clicks and milliseconds; without, all of them. ``jobs.rollback`` takes it back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_promote


@dataclass(frozen=True, kw_only=True)
class PromoteArguments(Arguments):
    """Add for whom."""

    canary: float | None = None
    """Share of the users that get the release beside the current one, between 0 and 1. All of them
    if absent."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster."""
    run_job(PromoteArguments, _work, argv, name="promote", description=str(__doc__))


def _work(arguments: PromoteArguments) -> Fields:
    return run_promote(arguments.workspace, canary=arguments.canary)


if __name__ == "__main__":
    main()
