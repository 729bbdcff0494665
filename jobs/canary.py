"""Say what the canary earns beside the promoted release: is the split sound, which is better.

python -m jobs.canary laptop --workspace ./workspace
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.progress import console
from jobs.command import Arguments, run_job
from jobs.stages import Fields
from rec.stages.canary_verdict import CanaryVerdict, judge_canary


@dataclass(frozen=True, kw_only=True)
class CanaryArguments(Arguments):
    """Add how long the trial was meant to be."""

    expected_users: int = 10_000
    """Users of both arms for which the interval is narrowest; it holds at any look."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs no cluster."""
    run_job(CanaryArguments, _work, argv, name="canary", description=str(__doc__))


def _work(arguments: CanaryArguments) -> Fields:
    found = judge_canary(arguments.workspace, expected_users=arguments.expected_users)
    _print(found)
    return {"outputs": {}, "skipped": False, "canary": found.to_json()}


def _print(found: CanaryVerdict) -> None:
    said = {
        "canary": "the canary is better: promote it",
        "promoted": "the canary is worse: roll it back",
        "split_is_broken": "the users are not split as they should be, so nothing can be said "
        f"(p = {found.ratio.p_value:.2g}): look for lost logs and bots",
        None: "no clear difference yet",
    }[found.verdict]
    arms = ", ".join(
        f"{name} {arm.followed:.4f} of the lists followed by an event "
        f"({arm.num_users:,} users, {arm.num_lists:,} lists)"
        for name, arm in (("canary", found.canary), ("promoted", found.promoted))
    )
    console().print(
        f"{said}: {arms}; difference {found.look.difference:+.4f} "
        f"[{found.look.low:+.4f}, {found.look.high:+.4f}] with 95 % confidence at every look"
    )


if __name__ == "__main__":
    main()
