"""What places for new items cost: lists with 0, 1 and 2 of them, on the test part of a log.

    python -m tests.benchmarks.new_item_places --workspace ./workspace

Lists of ten are made as serving makes them, with the weights that saw nothing after the cut, for
everybody who has events after it; new items are those with fewer than five events before. The
figures of each number of places: NDCG@10 and its paired difference to none over users, the share of
all places that new items have, how many of them stand on any list, and how many targets among them
are hit. What the places earn later, the feedback, no log of the past can tell.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rec.artifacts import latest_artifact, read_artifact
from rec.data.items import load_items
from rec.data.sequences import load_sequences
from rec.data.splits import temporal_split
from rec.evaluation.evaluate import make_lists
from rec.evaluation.ranking_metrics import hits, ndcg_at_k
from rec.evaluation.significance import paired_bootstrap
from rec.models.baselines import count_items
from rec.ranking.recommender import Recommender
from rec.stages.catalog import load_attributes
from rec.stages.embedding import load_embeddings
from rec.stages.indexing import ranking_of, release_files
from rec.stages.served_lists import ServedLists
from rec.stages.train_settings import settings_from
from rec.stages.training import EVALUATED

K, PLACES = 10, (0, 1, 2)


def measure(workspace: Path, *, num_users: int, seed: int) -> dict[str, Any]:
    """Return the figures of the workspace's newest index."""
    index = latest_artifact(workspace, "indexes", made_by="index")
    model = read_artifact(workspace / "models" / index.parents["models"])
    embeddings = read_artifact(workspace / "embeddings" / index.parents["embeddings"])
    catalog = read_artifact(workspace / "catalog" / index.parents["catalog"])
    sequences = load_sequences(workspace / "sequences" / index.parents["sequences"])
    split = temporal_split(
        sequences, quantile=settings_from(model.manifest["config"]).test_quantile
    )
    ranking = ranking_of(index)
    files = release_files(
        model, embeddings, split.train,
        items=load_items(catalog.path), weights=EVALUATED, ranking=ranking,
        is_pseudonymized=False, attributes=load_attributes(catalog.path),
    )  # fmt: skip
    test = split.test.without_seen() if ranking.exclude_seen else split.test
    if test.num_users > num_users:
        picks = np.random.default_rng(seed).choice(test.num_users, num_users, replace=False)
        test = test.select_users(np.sort(picks))
    is_new = count_items(split.train) < ranking.new_item_events  # (V,)
    figures: dict[str, Any] = {
        "users": test.num_users,
        "items": len(is_new),
        "new_items": int(is_new.sum()),
        "targets_new": round(float(is_new[test.targets - 1].mean()), 4),
    }
    none = None
    for places in PLACES:
        shop = Recommender(
            replace(files, ranking=replace(ranking, new_item_places=places)), release="benchmark"
        )
        made = ServedLists(shop, query_embeddings=load_embeddings(embeddings)[1])
        lists = make_lists(made, test.histories, k=K, exclude_seen=ranking.exclude_seen)
        ndcg = ndcg_at_k(lists, test.target_offsets, test.targets)
        none = ndcg if none is None else none
        gap = paired_bootstrap(ndcg, none, seed=seed)
        is_there = lists > 0
        shown_new = is_there & is_new[np.maximum(lists, 1) - 1]
        hit = hits(lists, test.target_offsets, test.targets)
        figures[f"{places} places"] = {
            "ndcg@10": round(float(ndcg.mean()), 4),
            "against none": [round(value, 4) for value in (gap.difference, gap.low, gap.high)],
            "share of places": round(float(shown_new.sum() / is_there.sum()), 4),
            "new items shown": len(np.unique(lists[shown_new])),
            "new items hit": int((hit & shown_new).sum()),
        }
    return figures


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="with an index")
    parser.add_argument("--users", type=int, default=2000, help="at most, drawn by the seed")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(arguments.workspace, num_users=arguments.users, seed=arguments.seed)
    print(json.dumps(figures, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
