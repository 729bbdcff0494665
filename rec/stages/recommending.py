"""Batch recommendation: every user's list from the current release, written as one Parquet file."""

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.artifacts import read_artifact
from rec.data.columns import list_names, text_column
from rec.data.files import list_files, read_chunks
from rec.data.privacy import load_or_create_key, pseudonyms
from rec.data.sequences import Sequences, load_sequences
from rec.errors import ConfigError, DataError
from rec.models.segments import Profile, user_profiles
from rec.ranking.current import current_release
from rec.ranking.recommender import Recommender
from rec.spread import Spread, in_process
from rec.stages.catalog import load_attributes
from rec.stages.embedding import load_embeddings
from rec.stages.preparation import KEY_FILE

BLOCK_USERS = 2048
"""Users of one task."""
_SCHEMA = {
    "user_id": pl.String,
    "position": pl.Int32,
    "item_id": pl.String,
    "score": pl.Float32,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Name some users of the sequences by row; -1 stands for a user without events."""

    rows: NDArray[np.int64]
    user_ids: Sequence[str]
    """As the answer names them."""
    stored_ids: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lists:
    """Hold the lists of a block of users.

    Attributes:
        columns: ``user_id, position, item_id, score``, a row a place.
        notes: how many lists say so: ``fewer_items``, ``category_cap``, ``pinned_item_left_out``.
        num_short: lists with fewer than k items.
    """

    columns: Mapping[str, Any]
    notes: Mapping[str, int]
    num_short: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RecommendBlock:
    """Make the lists of a block of users; one instance a worker process."""

    recommender: Recommender
    sequences: Sequences
    query_embeddings: NDArray[np.float32]
    k: int
    exclude_seen: bool | None
    profiles: Mapping[str, Profile]
    """Of users, by stored id."""

    def __call__(self, block: Block) -> Lists:
        """Return the block's lists."""
        known = self.sequences.select_users(np.maximum(block.rows, 0))
        histories = known.select_events((block.rows >= 0)[known.rows()])
        ranked = self.recommender.rank(
            histories,
            k=self.k,
            query_embeddings=self.query_embeddings,
            exclude_seen=self.exclude_seen,
            profiles=[self.profiles.get(key, {}) for key in block.stored_ids],
        )
        rows, places = np.nonzero(ranked.items)
        item_ids = np.asarray(["", *self.recommender.item_ids], dtype=object)
        users = np.asarray(block.user_ids, dtype=object)
        return Lists(
            columns={
                "user_id": users[rows].tolist(),
                "position": (places + 1).astype(np.int32),
                "item_id": item_ids[ranked.items[rows, places]].tolist(),
                "score": ranked.scores[rows, places],
            },
            notes=Counter(note for notes in ranked.notes for note in notes),
            num_short=int(((ranked.items > 0).sum(axis=1) < self.k).sum()),
        )


def recommend(
    workspace: Path,
    *,
    k: int,
    output: Path,
    users: str | None = None,
    exclude_seen: bool | None = None,
    spread: Spread = in_process,
    num_threads: int | None = None,
) -> dict[str, int]:
    """Write the lists of all users, or of those that a file names; return the counts.

    ``users``, ``rows``, ``cold_users``, and, only where there are any, ``short_lists`` (fewer than
    k items) and how many lists gave each reason; a warning says the same.

    Args:
        workspace: root of the artifacts.
        k: places of each list.
        output: Parquet file with ``user_id, position, item_id, score``; written aside, renamed.
        users: file with a column ``user_id``; its ids are answered as given, and users without
            events get cold-start lists. All users of the sequences, under stored ids, if absent.
        exclude_seen: leave out what a user has had; the release's choice if absent.
        spread: who makes the lists.
        num_threads: torch threads of one worker; torch's choice if absent.

    Raises:
        ArtifactError: nothing was promoted.
        ConfigError: k is below 1, or the output's name is not that of a Parquet file.
        DataError: the users file cannot be read or has no users.
    """
    if k < 1:
        raise ConfigError(f"--k must be >= 1, got {k}")
    if output.suffix != ".parquet":
        raise ConfigError(f"--output must end with .parquet, got {output}")
    release = read_artifact(current_release(workspace))
    folder = workspace / "sequences" / release.parents["sequences"]
    sequences = load_sequences(folder)
    stored = list(sequences.user_ids)
    if users is None:
        asked, rows = stored, np.arange(len(stored))
        keys: Sequence[str] = stored
    else:
        asked = _read_user_ids(users)
        keys = asked
        log = read_artifact(workspace / "events" / release.parents["events"])
        if log.manifest["details"]["pseudonymized"]:
            keys = pseudonyms(asked, load_or_create_key(workspace / KEY_FILE))
        row_of = {user_id: row for row, user_id in enumerate(stored)}
        rows = np.asarray([row_of.get(key, -1) for key in keys], dtype=np.int64)
    blocks = [
        Block(
            rows=rows[start : start + BLOCK_USERS],
            user_ids=asked[start : start + BLOCK_USERS],
            stored_ids=keys[start : start + BLOCK_USERS],
        )
        for start in range(0, len(rows), BLOCK_USERS)
    ]
    make = _factory(workspace, release.path, k=k, exclude_seen=exclude_seen, threads=num_threads)
    parts = list(spread(make, blocks, label="recommending"))
    table = pl.concat([pl.DataFrame(part.columns, schema=_SCHEMA) for part in parts])
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}")
    table.write_parquet(aside, compression="zstd")
    aside.replace(output)
    counts = {"users": len(rows), "rows": table.height, "cold_users": int((rows < 0).sum())}
    return counts | _shortfalls(parts, k=k)


def _factory(
    workspace: Path, release: Path, *, k: int, exclude_seen: bool | None, threads: int | None
) -> Callable[[], Callable[[Block], Lists]]:
    def make() -> Callable[[Block], Lists]:
        if threads is not None:
            import torch  # only the worker process needs it here

            torch.set_num_threads(threads)
        parents = read_artifact(release).parents
        embeddings = read_artifact(workspace / "embeddings" / parents["embeddings"])
        return RecommendBlock(
            recommender=Recommender.load(release),
            sequences=load_sequences(workspace / "sequences" / parents["sequences"]),
            query_embeddings=load_embeddings(embeddings)[1],
            k=k,
            exclude_seen=exclude_seen,
            profiles=user_profiles(load_attributes(workspace / "catalog" / parents["catalog"])),
        )

    return make


def _shortfalls(parts: Sequence[Lists], *, k: int) -> dict[str, int]:
    """Return how many lists are short of k and what the lists say of it; warn where some are."""
    notes = sum((Counter(part.notes) for part in parts), Counter[str]())
    num_short = sum(part.num_short for part in parts)
    said = ", ".join(f"{name} {count}" for name, count in sorted(notes.items()))
    if num_short:
        _log.warning("%d lists have fewer than --k %d items: %s", num_short, k, said)
    elif said:
        _log.warning("not every rule could be kept: %s", said)
    return ({"short_lists": num_short} if num_short else {}) | dict(sorted(notes.items()))


def _read_user_ids(path: str) -> list[str]:
    ids: dict[str, None] = {}
    for file in list_files([path]):
        for chunk in read_chunks(file):
            if "user_id" not in chunk.columns:
                raise DataError(
                    f"{file}: expected a column 'user_id', found {list_names(chunk)}: rename it"
                )
            column = text_column(chunk, "user_id", str(file))
            ids.update(dict.fromkeys(column.drop_nulls().to_list()))
    if not ids:
        raise DataError(f"expected at least one user_id in {path}, found none")
    return list(ids)
