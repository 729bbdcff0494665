r"""Close the loop: feedback -> log -> new candidate -> promoted, if it is not worse than today's.

ray job submit --working-dir . -- python -m jobs.loop laptop --workspace ./workspace \
    --events events.parquet --items items.parquet --every-s 86400
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.memory import MemoryMeter
from cluster.progress import console
from cluster.runtime import connect
from jobs.command import InputArguments, head, run_job, with_columns
from jobs.stages import (
    Fields,
    run_embed,
    run_evaluate,
    run_index,
    run_ingest,
    run_prepare,
    run_promote,
    run_train,
    tested_from,
)
from rec.artifacts import latest_artifact, read_artifact
from rec.errors import ConfigError
from rec.ranking.current import current_release
from rec.stages.comparing import compare, newest_quantile, to_json


@dataclass(frozen=True, kw_only=True)
class LoopArguments(InputArguments):
    """Add what decides, and how often."""

    newest_hours: float = 24.0
    """Newest part of the log on which candidate and release are compared; neither learns from it.
    Longer tests on more users and keeps the candidate's measured weights further behind."""
    every_s: float | None = None
    """Seconds from the start of one round to the next, for ever; one round if absent."""

    incremental: bool = False
    """Let the release's towers go on learning from the events since, instead of training anew: a
    fraction of the time. The ranker's trees stay; train anew now and then. At least half of the
    events since are learnt from before the comparison."""

    def __post_init__(self) -> None:
        if not self.newest_hours > 0:
            raise ConfigError(f"--newest-hours must be > 0, got {self.newest_hours}")
        if self.every_s is not None and not self.every_s > 0:
            raise ConfigError(f"--every-s must be > 0, got {self.every_s}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job; it needs a promoted release. A running service follows what is promoted."""
    run_job(LoopArguments, _work, argv, name="loop", description=str(__doc__))


def _work(arguments: LoopArguments) -> dict[str, Any]:
    with connect(arguments.profile):
        while True:
            start = time.monotonic()
            summary = _round(arguments)
            if arguments.every_s is None:
                return summary
            decision = summary["decision"]
            console().print(f"loop: {decision}", soft_wrap=True)
            time.sleep(max(0.0, start + arguments.every_s - time.monotonic()))


def _round(arguments: LoopArguments) -> dict[str, Any]:
    """Run every stage once; return their summaries and what was decided."""
    workspace, profile = arguments.workspace, arguments.profile
    release = read_artifact(current_release(workspace))
    stages: list[dict[str, Any]] = []

    def run(job: str, step: Callable[[], Fields]) -> Fields:
        with MemoryMeter() as meter:
            fields = step()
        stages.append({"job": job, **head(arguments), **fields, **meter.read()})
        return fields

    run("ingest", lambda: run_ingest(workspace))
    recipe = with_columns(arguments)
    run(
        "prepare",
        lambda: run_prepare(
            recipe,
            profile,
            workspace,
            events=arguments.events,
            items=arguments.items,
            users=arguments.users,
        ),
    )
    newest = latest_artifact(workspace, "sequences", made_by="prepare").name
    if release.parents["sequences"] == newest:
        return _summary(stages, "kept", {"reason": "nothing has changed"}, str(release.path))
    quantile = newest_quantile(
        workspace,
        release=release,
        hours=arguments.newest_hours,
        learn_share=0.5 if arguments.incremental else 0.0,
    )
    recipe = tested_from(recipe, quantile)
    start = release.name if arguments.incremental else None
    run("embed", lambda: run_embed(recipe, profile, workspace))
    run("train", lambda: run_train(recipe, profile, workspace, resume=False, init_from=start))
    run("index", lambda: run_index(recipe, workspace))
    run("evaluate", lambda: run_evaluate(recipe, workspace))
    comparison = compare(
        workspace,
        index=latest_artifact(workspace, "indexes", made_by="index"),
        model=latest_artifact(workspace, "models", made_by="train"),
        release=release,
        quantile=quantile,
    )
    if comparison.is_worse:
        return _summary(stages, "kept", to_json(comparison), str(release.path))
    promoted = run("promote", lambda: run_promote(workspace))
    return _summary(stages, "promoted", to_json(comparison), promoted["outputs"]["releases"])


def _summary(
    stages: list[dict[str, Any]], decision: str, comparison: dict[str, Any], release: str
) -> dict[str, Any]:
    return {
        "stages": stages,
        "decision": decision,
        "comparison": comparison,
        "outputs": {"releases": release},
        "skipped": decision == "kept",
    }


if __name__ == "__main__":
    main()
