"""Cold items: 15 % of the catalog loses all events before the cut; who finds them by their text?

    python -m tests.benchmarks.cold_items --log shop --log films=FOLDER --log grocery

``shop`` and ``news`` are stand-in logs, ``grocery`` is 16 weeks of 600 households of The Complete
Journey, ``films=FOLDER`` holds ``interactions.parquet`` and ``items.parquet``. The `laptop` recipe
sees the log before the cut and nothing else; its served lists are asked for each user's next
basket (films: the newest tenth of each user's ratings). Lists come from the full catalog without
what the user has had. Beside it stand the nearest texts, to all or to the newest ten of the user's
items, and our own lists with cold items forbidden: what the cold ones cost the warm.

Shapes: B users, V items, k places.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from jobs.recipes import LAPTOP
from rec.artifacts import latest_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.items import load_items
from rec.data.samples import load_complete_journey
from rec.data.sequences import Sequences, load_sequences
from rec.data.splits import EvaluationSet
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.evaluation.significance import paired_bootstrap
from rec.models.scoring import top_k_in_blocks
from rec.models.transitions import recency_weights
from rec.ranking.recommender import Recommender
from rec.stages.embedding import embed, load_embeddings
from rec.stages.indexing import release_files
from rec.stages.preparation import prepare
from rec.stages.training import SERVED, find_inputs, train
from tests.benchmarks.fair import machine
from tests.benchmarks.large_log import laptop_settings
from tests.benchmarks.quality_logs import news, sparse_shop

K = 10
COLD_SHARE = 0.15
QUANTILE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Hold a log cut in two: what is trained on, and what each user turned to next."""

    events: pl.DataFrame
    items: pl.DataFrame
    asked: pl.DataFrame
    """Distinct ``user_id, item_id`` after the cut."""
    cold: frozenset[str]


def make_case(log: str, *, seed: int) -> Case:
    """Return a log whose cold items have lost their events before the cut."""
    name, _, folder = log.partition("=")
    if name == "films":
        events = pl.read_parquet(Path(folder) / "interactions.parquet").rename(
            {"event": "event_type"}
        )
        items = pl.read_parquet(Path(folder) / "items.parquet")
    elif name == "grocery":
        sample = load_complete_journey(num_weeks=16)
        users = sample.events["user_id"].unique().sort().sample(600, seed=seed)
        events = sample.events.filter(pl.col("user_id").is_in(users.implode()))
        items = sample.items.join(events, on="item_id", how="semi")
    else:
        made = {"shop": sparse_shop, "news": news}[name](
            scale={"shop": 0.2, "news": 0.5}[name], eventless_share=0.0
        )
        events, items = made.events, made.items
    named = events["item_id"].unique().sort()
    cold = named.sample(round(COLD_SHARE * len(named)), seed=seed)
    events = events.sort("timestamp", maintain_order=True)
    if name == "films":
        place = pl.int_range(pl.len()).over("user_id") / pl.len().over("user_id")
        is_later = place >= QUANTILE
        asked = events.filter(is_later)
    else:
        is_later = pl.col("timestamp") >= events["timestamp"][int(QUANTILE * events.height)]
        asked = events.filter(is_later).filter(
            pl.col("timestamp") == pl.col("timestamp").min().over("user_id")
        )
    return Case(
        events=events.filter(~is_later & ~pl.col("item_id").is_in(cold.implode())),
        items=items,
        asked=asked.select("user_id", "item_id").unique(maintain_order=True),
        cold=frozenset(cold.to_list()),
    )


def train_case(case: Case, workspace: Path, *, num_epochs: int) -> None:
    """Prepare, embed and train as the `laptop` recipe does."""
    workspace.mkdir(parents=True, exist_ok=True)
    case.events.write_parquet(workspace / "events.parquet")
    case.items.write_parquet(workspace / "items.parquet")
    prepare(
        workspace,
        events=[str(workspace / "events.parquet")],
        items=[str(workspace / "items.parquet")],
        # Keyed pseudonyms would order users anew in every workspace.
        config=CleaningConfig(pseudonymize_users=False),
        num_partitions=2,
    )
    embed(workspace, config=LAPTOP.encoder)
    train(workspace, laptop_settings(num_epochs), accelerator=Accelerator(cpu=True), resume=False)


def ask(case: Case, sequences: Sequences, item_ids: list[str]) -> EvaluationSet:
    """Return the users with a history who turned to something new, and what that was."""
    places = {item_id: place for place, item_id in enumerate(item_ids, start=1)}
    wanted: dict[str, set[int]] = {}
    for user_id, item_id in case.asked.iter_rows():
        if item_id in places:
            wanted.setdefault(user_id, set()).add(places[item_id])
    rows = [row for row, user_id in enumerate(sequences.user_ids) if user_id in wanted]
    targets = [sorted(wanted[sequences.user_ids[row]]) for row in rows]
    return EvaluationSet(
        histories=sequences.select_users(np.asarray(rows, dtype=np.int64)),
        target_offsets=np.cumsum([0, *map(len, targets)]).astype(np.int64),
        targets=np.concatenate([np.asarray(own, dtype=np.int32) for own in targets]),
    ).without_seen()


def of_kind(asked: EvaluationSet, is_kind: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Any]:
    """Return the users with a target of a kind (bool ``(V,)``), and those targets alone."""
    keep = is_kind[asked.targets - 1]
    owners = np.repeat(np.arange(asked.num_users), np.diff(asked.target_offsets))[keep]
    sizes = np.bincount(owners, minlength=asked.num_users)
    users = np.flatnonzero(sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes[users])]).astype(np.int64)
    return users, (offsets, asked.targets[keep])


def content_lists(
    text: NDArray[np.float32], histories: Sequences, *, decay: float, max_events: int
) -> NDArray[np.int32]:
    """Return the items nearest in text to the mean of a user's, int32 ``(B, k)``."""
    unit = text / np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-9)

    def score(block: Sequences) -> NDArray[np.float32]:
        read = recency_weights(block, decay=decay, max_events=max_events) @ unit
        scores: NDArray[np.float32] = (read @ unit.T).astype(np.float32)
        return scores

    return top_k_in_blocks(score, histories, k=K, exclude_seen=True)


def measure(case: Case, workspace: Path) -> dict[str, Any]:
    """Return NDCG@10 of all, warm and cold targets for ours and the nearest texts."""
    inputs = find_inputs(workspace)
    sequences = load_sequences(inputs.sequences.path)
    items = load_items(workspace / "catalog" / inputs.parents["catalog"])
    text, queries = load_embeddings(inputs.embeddings)
    asked = ask(case, sequences, items["item_id"].to_list())
    is_cold = np.bincount(sequences.tokens, minlength=sequences.num_items + 1)[1:] == 0
    files = release_files(
        latest_artifact(workspace, "models", made_by="train"),
        inputs.embeddings,
        sequences,
        items=items,
        weights=SERVED,
        ranking=LAPTOP.ranking,
        is_pseudonymized=False,
    )
    recommender = Recommender(files, release="benchmark")

    def ours(allowed: NDArray[np.bool_] | None) -> NDArray[np.int32]:
        ranked = recommender.rank(
            asked.histories, k=K, query_embeddings=queries, exclude_seen=True, allowed=allowed
        )
        return ranked.items.astype(np.int32)

    lists: Mapping[str, Callable[[], NDArray[np.int32]]] = {
        "nextray": lambda: ours(None),
        "nextray, warm only": lambda: ours(~is_cold),
        "text, newest ten": lambda: content_lists(text, asked.histories, decay=0.8, max_events=10),
        "text, all": lambda: content_lists(text, asked.histories, decay=1.0, max_events=200),
    }
    kinds = {"warm": of_kind(asked, ~is_cold), "cold": of_kind(asked, is_cold)}
    figures: dict[str, Any] = {name: len(users) for name, (users, _) in kinds.items()}
    scores: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, make in lists.items():
        made = make()
        scores[name] = {
            "all": ndcg_at_k(made, asked.target_offsets, asked.targets),
            **{kind: ndcg_at_k(made[users], *own) for kind, (users, own) in kinds.items()},
        }
        row = {key: round(float(value.mean()), 4) for key, value in scores[name].items()}
        row["cold_share"] = round(float(is_cold[made - 1][made > 0].mean()), 3)
        figures[name] = row
    best = max(("text, newest ten", "text, all"), key=lambda name: figures[name]["cold"])
    figures["cold_ratio"] = round(figures["nextray"]["cold"] / max(figures[best]["cold"], 1e-9), 2)
    gain = paired_bootstrap(scores["nextray"]["cold"], scores[best]["cold"])
    figures["cold_gain"] = [round(value, 4) for value in (gain.difference, gain.low, gain.high)]
    figures["warm_loss"] = round(
        1 - figures["nextray"]["warm"] / max(figures["nextray, warm only"]["warm"], 1e-9), 4
    )
    return figures


def main() -> None:
    """Train and measure every log, print a row each, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", action="append", required=True)
    parser.add_argument("--seed", type=int, default=0, help="of which items are cold")
    parser.add_argument("--epochs", type=int, default=LAPTOP.training.num_epochs)
    parser.add_argument("--workspaces", type=Path, help="keep the workspaces here")
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"machine": machine("lightgbm"), "logs": {}}
    arguments.figures.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as aside:
        for log in arguments.log:
            case = make_case(log, seed=arguments.seed)
            name = log.partition("=")[0]
            workspace = (arguments.workspaces or Path(aside)) / name
            start = time.process_time()
            train_case(case, workspace, num_epochs=arguments.epochs)
            row = {"train_cpu_s": round(time.process_time() - start, 1), **measure(case, workspace)}
            figures["logs"][name] = row
            print(json.dumps({name: row}, indent=1), flush=True)  # noqa: T201
            path = arguments.figures / "cold_items.json"
            path.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
