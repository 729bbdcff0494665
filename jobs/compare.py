"""Compare two releases, user by user: which is better, and how sure.

python -m jobs.compare laptop RELEASE_A RELEASE_B --workspace ./workspace
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from cluster.progress import console
from jobs.command import Arguments, run_job
from jobs.stages import Fields
from rec.evaluation.comparing import Comparison
from rec.stages.release_comparison import compare_releases


@dataclass(frozen=True, kw_only=True)
class CompareArguments(Arguments):
    """Add the two releases."""

    releases: Annotated[tuple[str, str], tyro.conf.Positional]
    """Names of two releases or reports of the workspace; the second is held against the first."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster."""
    run_job(CompareArguments, _work, argv, name="compare", description=str(__doc__))


def _work(arguments: CompareArguments) -> Fields:
    first, second = arguments.releases
    found = compare_releases(arguments.workspace, first, second)
    _print(found, first, second)
    return {"outputs": {}, "skipped": False, "comparison": found.to_json()}


def _print(found: Comparison, first: str, second: str) -> None:
    gap = found.interval
    verdict = "no clear difference" if found.better is None else f"{found.better} is better"
    console().print(
        f"{verdict}: NDCG@{found.k} {found.ndcg[first]:.4f} ({first}), {found.ndcg[second]:.4f} "
        f"({second}); difference {gap.difference:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] with 95 % "
        f"confidence over {found.num_users:,} users"
    )


if __name__ == "__main__":
    main()
