"""Tasks: a log cut by this benchmark, before any recommender sees it, and what is asked of all.

Each system reads the same training events and answers for the same users with lists of item ids;
only the scorer here knows the targets. Nothing of a cut is shared with the systems' own splits.

Shapes: B users asked, T items of all target sets together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.data.samples import load_complete_journey
from tests.benchmarks.quality_logs import sparse_shop

K = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Hold one cut of one log.

    Attributes:
        log: name of the log with its protocol; folds of one log are reported together.
        fold: name of the cut.
        train: ``user_id, item_id, timestamp, ...``, everything that may be learnt from.
        items: the whole catalog, items without events too.
        targets: ``user_id, item_id``, one row a target; a user of ``train`` or a cold one.
        exclude_seen: lists leave out what the user had, and so do the targets.
        is_last_out: the targets are each user's last event, and not what came after a moment.
    """

    log: str
    fold: str
    train: pl.DataFrame
    items: pl.DataFrame
    targets: pl.DataFrame
    exclude_seen: bool
    is_last_out: bool

    @property
    def users(self) -> list[str]:
        """Return the users asked, in the order of every result."""
        return self.targets["user_id"].unique().sort().to_list()

    def target_sets(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return offsets int64 ``(B + 1,)`` and item indexes int32 ``(T,)``, as the metrics ask."""
        coded = (
            self.targets.sort("user_id").join(self._codes(), on="item_id").sort("user_id", "code")
        )
        sizes = coded.group_by("user_id", maintain_order=True).len()["len"].to_numpy()
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), coded["code"].to_numpy()

    def read_lists(self, lists: pl.DataFrame) -> NDArray[np.int32]:
        """Return lists ``user_id, position, item_id`` as int32 ``(B, 10)``, 0 = no item."""
        users = pl.DataFrame({"user_id": self.users}).with_row_index("row")
        rows = (
            lists.join(users, on="user_id").join(self._codes(), on="item_id")
            .filter(pl.col("position") <= K)
        )  # fmt: skip
        answer = np.zeros((len(users), K), dtype=np.int32)
        answer[rows["row"].to_numpy(), rows["position"].to_numpy() - 1] = rows["code"].to_numpy()
        return answer

    def write(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write events, items and users asked as Parquet and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = (folder / "events.parquet", folder / "items.parquet", folder / "users.parquet")
        frames = (self.train, self.items, pl.DataFrame({"user_id": self.users}))
        for frame, path in zip(frames, paths, strict=True):
            frame.write_parquet(path)
        return paths

    def _codes(self) -> pl.DataFrame:
        codes = np.arange(1, len(self.items) + 1, dtype=np.int32)
        return self.items.select("item_id").with_columns(pl.Series("code", codes))


def temporal(
    log: str, events: pl.DataFrame, items: pl.DataFrame, *, quantile: float, exclude_seen: bool
) -> Task:
    """Cut at a quantile of time; the targets are each user's first tied group from there on."""
    times = events["timestamp"].to_numpy()
    cut = np.sort(times)[min(int(quantile * len(times)), len(times) - 1)]
    train = events.filter(pl.col("timestamp") < cut)
    later = events.filter(pl.col("timestamp") >= cut)
    first = pl.col("timestamp") == pl.col("timestamp").min().over("user_id")
    return _task(
        log, train, items, later.filter(first), exclude_seen=exclude_seen,
        fold=f"{quantile:g}", is_last_out=False,
    )  # fmt: skip


def leave_one_out(
    log: str, events: pl.DataFrame, items: pl.DataFrame, *, seed: int, exclude_seen: bool
) -> Task:
    """Hold out each user's last event; which one of a tie is last is drawn by ``seed``."""
    order = np.random.default_rng(seed).permutation(len(events))
    shuffled = events[order].sort("user_id", "timestamp", maintain_order=True)
    is_last = pl.int_range(pl.len()).over("user_id") == pl.len().over("user_id") - 1
    has_others = pl.len().over("user_id") > 1
    return _task(
        log, shuffled.filter(~(is_last & has_others)).sort("timestamp", maintain_order=True), items,
        shuffled.filter(is_last & has_others), exclude_seen=exclude_seen,
        fold=f"seed {seed}", is_last_out=True,
    )  # fmt: skip


def load_tasks(
    name: str, *, movielens: Path | None, weeks: int | None, scale: float, folds: Sequence[float]
) -> list[Task]:
    """Return the cuts of one log: ``films_last``, ``films``, ``grocery`` or ``shop``."""
    if name in ("films", "films_last"):
        if movielens is None:
            raise SystemExit(
                f"{name} needs --movielens DIR with interactions.parquet, items.parquet"
            )
        events = pl.read_parquet(movielens / "interactions.parquet")
        events = events.cast({"user_id": pl.String, "item_id": pl.String})
        items = pl.read_parquet(movielens / "items.parquet").cast({"item_id": pl.String})
        if name == "films_last":
            return [leave_one_out(name, events, items, seed=7, exclude_seen=True)]
        return [
            temporal(name, events, items, quantile=fold, exclude_seen=True) for fold in folds
        ]  # fmt: skip
    if name == "grocery":
        sample = load_complete_journey(num_weeks=weeks)
        known = sample.events.join(sample.items, on="item_id", how="semi")
        return [temporal(name, known, sample.items, quantile=0.9, exclude_seen=False)]
    made = sparse_shop(scale=scale)
    return [temporal(name, made.events, made.items, quantile=0.9, exclude_seen=True)]


def _task(
    log: str,
    train: pl.DataFrame,
    items: pl.DataFrame,
    targets: pl.DataFrame,
    *,
    exclude_seen: bool,
    fold: str,
    is_last_out: bool,
) -> Task:
    pairs = targets.select("user_id", "item_id").unique()
    if exclude_seen:
        pairs = pairs.join(train, on=["user_id", "item_id"], how="anti")
    return Task(
        log=log,
        fold=fold,
        train=train,
        items=items,
        targets=pairs.sort("user_id", "item_id"),
        exclude_seen=exclude_seen,
        is_last_out=is_last_out,
    )
