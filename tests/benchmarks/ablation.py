"""What each choice of the sequence model is worth, alone: NDCG by cosine, cold items, order gate.

    python -m tests.benchmarks.ablation --log shop --log films=FOLDER:last --only attention gru

``shop`` is the synthetic one; ``NAME=FOLDER`` holds ``interactions.parquet`` and
``items.parquet``. Temporal split at 0.9, or with ``:last`` each user's last event (for logs whose
users come once); full catalog, seen items left out, seeds averaged; no ranker stands between.
``cold`` is the NDCG of users' targets without any training event; the gate gives the share of NDCG
that is left when histories are shuffled, reversed or cut to one event. ``--words all content``
measures each choice with and without stop words and punctuation in what the encoder reads (the
article takes them out); ``--only text-only`` shows most of it.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from rec.artifacts import read_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.sequences import Sequences, load_sequences
from rec.data.splits import EvaluationSet, hold_out_last, temporal_split
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.encoders import EncoderConfig
from rec.evaluation.order_gate import order_gate
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.models.scoring import top_k_in_blocks
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.models.training import fit
from rec.models.training_config import TrainingConfig
from rec.stages.embedding import embed, load_embeddings
from rec.stages.fitting import cosine_scorer
from rec.stages.preparation import prepare
from rec.stages.training import build_model, find_inputs
from tests.benchmarks.fair import machine

K = 10
VARIANTS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "attention": ({}, {}),
    "gru": ({"tower": "gru", "num_layers": 1}, {}),
    "text-only": ({"id_residual": False}, {}),
    "id-dropout-0": ({"id_dropout": 0.0}, {}),
    "whitening-0.5": ({"whitening": 0.5}, {}),
    "whitening-1": ({"whitening": 1.0}, {}),
    "no-cold-negatives": ({}, {"cold_negatives": False}),
    "full": ({}, {"loss": "full_softmax"}),
    "sampled": ({}, {"loss": "sampled_softmax"}),
    "mixed": ({}, {"loss": "mixed_softmax"}),
    "gbce": ({}, {"loss": "gbce"}),
    "mask-own": ({}, {"loss": "sampled_softmax", "mask_own_items": True}),
}
"""Fields of the model and of its training that differ from the defaults."""


class Lists:
    """The lists of a model by cosine alone."""

    name = "cosine"

    def __init__(self, model: SequenceModel, queries: NDArray[np.float32]) -> None:
        self._score = cosine_scorer(model, queries=queries)

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        return top_k_in_blocks(self._score, histories, k=k, exclude_seen=exclude_seen)


def make_workspace(log: str, folder: Path) -> Path:
    """Return a workspace with a log prepared."""
    name, _, source = log.partition(":")[0].partition("=")
    workspace = folder / name
    if not (workspace / "sequences" / "latest").exists():
        if source:
            events, items = Path(source) / "interactions.parquet", Path(source) / "items.parquet"
        else:
            events, items, _ = write_shop(make_shop(ShopConfig()), folder / f"{name}-files")
        # Keyed pseudonyms would order users anew in every workspace.
        config = CleaningConfig(pseudonymize_users=False)
        prepare(
            workspace, events=[str(events)], items=[str(items)], config=config, num_partitions=2
        )
    return workspace


def split_log(sequences: Sequences, log: str) -> tuple[Sequences, EvaluationSet]:
    if log.endswith(":last"):
        return hold_out_last(sequences, max_users=sequences.num_users, seed=0)
    split = temporal_split(sequences, quantile=0.9)
    return split.train, split.test


def run(
    workspace: Path, log: str, model: ModelConfig, training: TrainingConfig
) -> dict[str, float]:
    """Return the figures of one configuration, trained once."""
    inputs = find_inputs(workspace)
    sequences = load_sequences(inputs.sequences.path)
    queries = load_embeddings(read_artifact(inputs.embeddings.path))[1]
    train, asked = split_log(sequences, log)
    learn, validation = hold_out_last(train, max_users=2000, seed=training.seed)
    validation = validation.without_seen()
    towers = build_model(inputs.embeddings, sequences, model, seed=training.seed)

    def validate(candidate: SequenceModel) -> float:
        lists = Lists(candidate, queries).top_k(validation.histories, k=K, exclude_seen=True)
        return float(ndcg_at_k(lists, validation.target_offsets, validation.targets).mean())

    start = time.process_time()
    result = fit(
        towers, learn, config=training, accelerator=Accelerator(cpu=True), validate=validate
    )
    seconds = time.process_time() - start
    ours, test = Lists(towers, queries), asked.without_seen()
    lists = ours.top_k(test.histories, k=K, exclude_seen=True)
    scores = ndcg_at_k(lists, test.target_offsets, test.targets)
    counts = np.bincount(train.tokens, minlength=sequences.num_items + 1)
    is_cold = counts[test.targets[test.target_offsets[:-1]]] == 0
    found = order_gate(ours, asked, k=K, exclude_seen=True, seed=training.seed)
    gate = {"ordered": 0.0} if found is None else found.ndcg
    return {
        "ndcg": float(scores.mean()),
        "warm": float(scores[~is_cold].mean()),
        "cold": float(scores[is_cold].mean()) if is_cold.any() else 0.0,
        "cold_users": int(is_cold.sum()),
        "epochs": len(result.metrics),
        "cpu_s": round(seconds, 1),
        **{f"gate_{name}": value / max(gate["ordered"], 1e-9) for name, value in gate.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", action="append", default=None)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--decoder", help="measure the tower that starts from this checkpoint")
    parser.add_argument("--words", nargs="+", choices=["all", "content"], default=["all"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--workspaces", type=Path)
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    variants = {name: VARIANTS[name] for name in arguments.only}
    if arguments.decoder:
        variants["pretrained"] = ({"tower": "pretrained", "decoder": arguments.decoder}, {})
    figures: dict[str, Any] = {"machine": machine(), "rows": []}
    arguments.figures.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as aside:
        for log in arguments.log or ["shop"]:
            workspace = make_workspace(log, arguments.workspaces or Path(aside))
            for words, (name, (model, training)) in product(arguments.words, variants.items()):
                embed(workspace, config=EncoderConfig(backend="torch", words=words))
                rows = [
                    run(
                        workspace,
                        log,
                        replace(ModelConfig(), **model),
                        replace(TrainingConfig(num_epochs=arguments.epochs, seed=seed), **training),
                    )
                    for seed in arguments.seeds
                ]
                means = {key: round(float(np.mean([r[key] for r in rows])), 4) for key in rows[0]}
                spread = round(float(np.ptp([r["ndcg"] for r in rows])), 4)
                row = {"log": workspace.name, "variant": name, "words": words}
                figures["rows"].append({**row, **means, "spread": spread})
                print(json.dumps(figures["rows"][-1]), flush=True)  # noqa: T201
                path = arguments.figures / "ablation.json"
                path.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
