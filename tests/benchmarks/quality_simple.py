"""The simple peers: our own baselines, each tuned on a part of the training events.

Where the task cuts at a moment, so does the validation; where it holds out last events, so does
the validation. Nothing of the targets is read here.

Shapes: B users asked, V items.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.artifacts import latest_artifact
from rec.data.items import load_items
from rec.data.sequences import Sequences, build_sequences
from rec.data.splits import EvaluationSet, hold_out_last, temporal_split
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.models.baselines import (
    ItemKNN,
    Markov,
    PersonalFrequency,
    Popularity,
    ScoredLists,
    Scorer,
    count_items,
)
from rec.models.ease import EASE
from rec.models.factorization import ImplicitALS
from rec.models.nearest import ContentKNN, WindowedKNN
from rec.stages.embedding import load_embeddings
from tests.benchmarks.quality_tasks import K, Task

Options = Mapping[str, Any]
Text = NDArray[np.float32]
_MAKERS: Mapping[str, Callable[[Sequences, Text, Options], Scorer]] = {
    "popularity": lambda log, _, options: Popularity(log, **options),
    "popularity_7_days": lambda log, _, options: Popularity(log, last_days=7, **options),
    "item_knn": lambda log, _, options: ItemKNN(log, **options),
    "windowed_knn": lambda log, _, options: WindowedKNN(log, **options),
    "markov": lambda log, _, options: Markov(log, **options),
    "personal_frequency": lambda log, _, options: PersonalFrequency(log, **options),
    "ease": lambda log, _, options: EASE(log, **options),
    "ials": lambda log, _, options: ImplicitALS(log, **options),
    "content_knn": lambda _, text, options: ContentKNN(text, **options),
}
GRIDS: Mapping[str, Sequence[Options]] = {
    "popularity": ({},),
    "popularity_7_days": ({},),
    "item_knn": tuple({"num_neighbors": count} for count in (5, 20, 100, 400)),
    "windowed_knn": tuple(
        {"window": window, "decay": decay} for window in (3, 10, 30) for decay in (0.3, 0.6, 0.9)
    ),
    "markov": ({},),
    "personal_frequency": tuple({"decay": decay} for decay in (1.0, 0.98, 0.9)),
    "ease": tuple({"l2": l2} for l2 in (10.0, 50.0, 200.0, 1000.0)),
    "ials": tuple(
        {"alpha": alpha, "l2": l2} for alpha in (0.3, 1.0, 10.0, 40.0) for l2 in (0.3, 3.0, 30.0)
    ),
    "content_knn": tuple({"decay": decay} for decay in (0.2, 0.5, 0.8, 0.95)),
}
"""What is tried; the best on validation answers."""


class SimplePeers:
    """Hold a task's log as sequences, its validation, and what fills short lists."""

    def __init__(self, task: Task, *, text: Text) -> None:
        self.task, self._text = task, text
        self.train = _sequences(task, task.train)
        learn, asked = self.train, None
        if task.is_last_out:
            learn, asked = hold_out_last(self.train, max_users=2000, seed=7)
        else:
            split = temporal_split(self.train, quantile=0.9)
            learn, asked = split.train, split.test
        self._learn, self._asked = learn, asked.without_seen() if task.exclude_seen else asked
        self.histories = self._histories_of(task.users)
        # Backed by the popularity, of all time or of a week, that does better on validation.
        chances = {days: count_items(learn, last_days=days) for days in (None, 7)}
        self.fill_days = max(
            chances, key=lambda days: self._ndcg(Popularity(learn, last_days=days))
        )
        self._learn_backing = chances[self.fill_days]
        self.backing = count_items(self.train, last_days=self.fill_days)

    def run(self, name: str) -> tuple[NDArray[np.int32], dict[str, Any]]:
        """Return the lists of the best setting, int32 ``(B, 10)``, and what it took."""
        started = time.process_time()
        make, grid = _MAKERS[name], GRIDS[name]
        chosen = grid[0]
        if len(grid) > 1:
            found = [self._ndcg(make(self._learn, self._text, options)) for options in grid]
            chosen = grid[int(np.argmax(found))]
        tuned = time.process_time()
        lists = ScoredLists(make(self.train, self._text, chosen), backing=self.backing).top_k(
            self.histories, k=K, exclude_seen=self.task.exclude_seen
        )
        done = time.process_time()
        figures = {
            "cpu_s": round(done - tuned, 2),
            "tuning_cpu_s": round(tuned - started, 2),
            "settings": dict(chosen),
        }
        return lists, figures

    def fill(self, lists: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return lists whose empty places hold what is popular and neither listed nor seen."""
        order = (np.argsort(-self.backing, kind="stable") + 1).astype(np.int32)
        filled = lists.copy()
        for row in np.flatnonzero((lists == 0).any(axis=1)):
            mine = lists[row][lists[row] > 0]
            first, last = self.histories.offsets[row : row + 2]
            taken = [mine, self.histories.tokens[first:last]] if self.task.exclude_seen else [mine]
            more = order[~np.isin(order, np.concatenate(taken))][: K - len(mine)]
            filled[row] = np.pad(np.concatenate([mine, more]), (0, K - len(mine) - len(more)))
        return filled

    def counts(self) -> NDArray[np.int64]:
        """Return the training events of each item, int64 ``(V,)``."""
        return count_items(self.train)

    def _ndcg(self, scorer: Scorer) -> float:
        backing = getattr(self, "_learn_backing", count_items(self._learn))
        lists = ScoredLists(scorer, backing=backing).top_k(
            self._asked.histories, k=K, exclude_seen=self.task.exclude_seen
        )
        asked: EvaluationSet = self._asked
        return float(ndcg_at_k(lists, asked.target_offsets, asked.targets).mean())

    def _histories_of(self, users: Sequence[str]) -> Sequences:
        """Return the training sequences of the users asked, empty for a cold one."""
        place = {user_id: row for row, user_id in enumerate(self.train.user_ids)}
        known = [user_id for user_id in users if user_id in place]
        mine = self.train.select_users(np.asarray([place[user_id] for user_id in known]))
        lengths = np.zeros(len(users), dtype=np.int64)
        lengths[[user_id in place for user_id in users]] = mine.lengths
        return Sequences(
            user_ids=list(users),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            tokens=mine.tokens,
            timestamps_ms=mine.timestamps_ms,
            event_types=mine.event_types,
            event_type_names=mine.event_type_names,
            num_items=mine.num_items,
        )


def read_texts(workspace: Path, items: pl.DataFrame) -> Text:
    """Return the item embeddings of our workspace in the task's order, float32 ``(V, D)``."""
    embeddings = latest_artifact(workspace, "embeddings", made_by="embed")
    catalog = latest_artifact(workspace, "catalog", made_by="prepare")
    ids = load_items(catalog.path)["item_id"].to_list()
    place = {item_id: row for row, item_id in enumerate(ids)}
    values = load_embeddings(embeddings)[0]
    shift = len(values) - len(ids)  # a row of padding stands before the items
    return values[[place[item_id] + shift for item_id in items["item_id"].to_list()]]


def _sequences(task: Task, events: pl.DataFrame) -> Sequences:
    times = events["timestamp"].to_numpy()
    unit = 1000 if times.max() < 10**11 else 1
    frame = events.select(
        "user_id",
        "item_id",
        pl.lit("view").alias("event_type"),
        (pl.col("timestamp") * unit).alias("timestamp_ms"),
        pl.lit(None, dtype=pl.String).alias("query"),
    ).sort("user_id", "timestamp_ms", maintain_order=True)
    return build_sequences(frame, item_ids=task.items["item_id"].to_list())
