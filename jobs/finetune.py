"""Fine-tune the text encoder on the log: catalog/, sequences/ -> encoders/.

ray job submit --working-dir . -- python -m jobs.finetune laptop --workspace ./workspace
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.progress import console
from cluster.runtime import connect
from jobs.command import Arguments, run_job
from jobs.stages import Fields, run_finetune


@dataclass(frozen=True, kw_only=True)
class FinetuneArguments(Arguments):
    """Add whether to go on."""

    resume: bool = False
    """Go on from the newest checkpoint of the same settings and inputs."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job."""
    run_job(FinetuneArguments, _work, argv, name="finetune", description=str(__doc__))


def _work(arguments: FinetuneArguments) -> Fields:
    with connect(arguments.profile):
        fields = run_finetune(
            arguments.recipe, arguments.profile, arguments.workspace, resume=arguments.resume
        )
    console().print(_verdict(fields), soft_wrap=True)
    return fields


def _verdict(fields: Fields) -> str:
    scores = fields["ndcg@10"]
    in_use = "" if scores["in_use"] is None else f", the tuned one in use {scores['in_use']:.4f}"
    figures = f"held-out retrieval NDCG@10 {scores['before']:.4f} -> {scores['after']:.4f}{in_use}"
    if fields["is_better"]:
        return f"{figures}: jobs.embed uses the tuned encoder from now on"
    return f"{figures}: no better, the encoder in use stays"


if __name__ == "__main__":
    main()
