"""What attributes are worth to a stranger: popularity by segment beside popularity of all.

    python -m tests.benchmarks.segments
    python -m tests.benchmarks.segments --workspace ./workspace

Without a workspace the log is a synthetic shop's, whose users have a language; a workspace's log
must have a users file. Every user of the temporal split who has attributes is
asked for as a stranger, in five folds: nothing of the users of a fold is known, neither to the
counts nor to the segments. The difference of NDCG@10 has a paired bootstrap interval over users.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rec.artifacts import latest_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.sequences import load_sequences
from rec.data.splits import temporal_split
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.evaluation.significance import paired_bootstrap
from rec.models.baselines import count_items
from rec.models.cold_start import cold_scores
from rec.models.segments import Segments, build_segments, user_profiles
from rec.stages.catalog import load_attributes
from rec.stages.preparation import prepare

K, FOLDS = 10, 5
SHOP = ShopConfig(num_users=1200, num_items=240, events_per_user=25)


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = arguments.workspace or _prepare_shop(Path(folder))
        log = latest_artifact(workspace, "sequences", made_by="prepare")
        sequences = load_sequences(log.path)
        attributes = load_attributes(workspace / "catalog" / log.parents["catalog"])
    if attributes is None:
        parser.error(
            "expected a log with a users file, it has none: run jobs.pipeline with --users"
        )
    profiles = user_profiles(attributes)
    split = temporal_split(sequences)
    folds = np.random.default_rng(arguments.seed).integers(FOLDS, size=split.train.num_users)
    fold_of = dict(zip(split.train.user_ids, folds.tolist(), strict=True))
    by_all: list[NDArray[np.float64]] = []
    by_segment: list[NDArray[np.float64]] = []
    attributes_used: set[str] = set()
    for fold in range(FOLDS):
        known = split.train.select_users(np.flatnonzero(folds != fold))
        scores = cold_scores(known)
        table = build_segments(known, attributes)
        attributes_used |= set(table["attribute"].unique())
        segments = Segments(table, num_items=known.num_items, counts=count_items(known))
        rows = [
            row
            for row, user_id in enumerate(split.test.histories.user_ids)
            if fold_of[user_id] == fold and profiles.get(user_id)
        ]
        asked = split.test.select_users(np.asarray(rows, dtype=np.int64))
        own = []
        for user_id in asked.histories.user_ids:
            lift = segments.lift(profiles[user_id])
            own.append(_best(scores if lift is None else (scores + 1e-6) * lift))
        everybody = np.tile(_best(scores), (len(rows), 1))
        for lists, found in ((everybody, by_all), (np.stack(own), by_segment)):
            found.append(ndcg_at_k(lists, asked.target_offsets, asked.targets))
    ours, theirs = np.concatenate(by_segment), np.concatenate(by_all)
    gap = paired_bootstrap(ours, theirs)
    figures = {
        "strangers": len(ours),
        "attributes": sorted(attributes_used),
        "ndcg@10": {"by segment": float(ours.mean()), "of all": float(theirs.mean())},
        "difference": [gap.difference, gap.low, gap.high],
    }
    print(json.dumps(figures, indent=1))  # noqa: T201


def _prepare_shop(folder: Path) -> Path:
    """Return a workspace that holds a synthetic shop's log."""
    events, items, users = write_shop(make_shop(SHOP), folder)
    plain = CleaningConfig(pseudonymize_users=False)  # pseudonyms would draw other folds each time
    prepare(
        folder / "workspace", events=[str(events)], items=[str(items)], users=[str(users)],
        config=plain, num_partitions=2,
    )  # fmt: skip
    return folder / "workspace"


def _best(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the best items, int32 ``(K,)``, 1-based."""
    return np.argsort(-scores, kind="stable")[:K].astype(np.int32) + 1


if __name__ == "__main__":
    main()
