"""The entry ticket: our user tower over item ids alone, by cosine, beside RecTools' SASRec.

No text, no ranker, no second source: width, layers, heads, length, loss, batch, patience and what
stops it are SASRec's of the same run. Within 5 % of it says that our training loop is sound.
"""

import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from rec.data.splits import hold_out_last
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.models.baselines import ScoredLists
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.models.training import fit
from rec.models.training_config import TrainingConfig
from rec.stages.fitting import cosine_scorer
from rec.stages.served_lists import Cosines
from tests.benchmarks.quality_simple import SimplePeers
from tests.benchmarks.quality_tasks import K

NO_QUERIES = np.zeros((0, 8), dtype=np.float32)


def run_id_only(
    peers: SimplePeers, *, job: dict[str, Any]
) -> tuple[NDArray[np.int32], dict[str, Any]]:
    """Return lists, int32 ``(B, 10)``, and figures; ``job`` is what SASRec was told."""
    train, exclude_seen = peers.train, peers.task.exclude_seen
    learn, asked = hold_out_last(train, max_users=2000, seed=job["seed"])
    asked = asked.without_seen() if exclude_seen else asked
    torch.manual_seed(job["seed"])
    model = SequenceModel(
        torch.zeros(train.num_items + 1, 8),  # no text
        num_items=train.num_items,
        num_event_types=len(train.event_type_names),
        config=ModelConfig(
            width=job["width"], max_length=job["length"], num_heads=4, id_dropout=0.0
        ),
    )
    config = TrainingConfig(
        loss="full_softmax" if job["loss"] == "softmax" else "sampled_softmax",
        num_negatives=job["negatives"],
        num_epochs=job["max_epochs"],
        patience=job["patience"],
        batch_size=job["batch_size"],
        batch_targets=None,
        learning_rate=1e-3,
    )

    def lists_of(histories: Any) -> NDArray[np.int32]:
        scorer = Cosines(name="id_only", score=cosine_scorer(model, queries=NO_QUERIES))
        return ScoredLists(scorer).top_k(histories, k=K, exclude_seen=exclude_seen)

    def validate(_: SequenceModel) -> float:
        lists = lists_of(asked.histories)
        return float(ndcg_at_k(lists, asked.target_offsets, asked.targets).mean())

    started = time.process_time()
    result = fit(model, learn, config=config, accelerator=Accelerator(cpu=True), validate=validate)
    lists = lists_of(peers.histories)
    is_cold = peers.histories.lengths == 0
    lists[is_cold] = 0  # cold users get what every peer's get
    figures = {
        "cpu_s": round(time.process_time() - started, 1),
        "epochs": len(result.metrics),
        "validation_ndcg": [round(float(row["ndcg"]), 4) for row in result.metrics],
    }
    return lists, figures
