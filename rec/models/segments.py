"""Segments: what users of one attribute value take more often than others, for cold starts.

A user of whom nothing is known but a profile (an age band, a country) gets what is popular with
users like that: ``score(i) = cold_score(i) * lift(i)``, where the lift of a segment is its share of
the item over everybody's, held towards 1 by as many pseudo-users' worth of everybody's taste as
users that were set aside ask for. An attribute that predicts them no better than popularity is left
out, so is a segment of few users: their taste is noise, and theirs alone. Each user counts once an
item.

Shapes: V items, P pairs of a user and an item, S segments.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.data.sequences import Sequences

MIN_USERS = 20
"""Users of a segment: fewer are noise, and one of them could be told from the list."""
MAX_VALUES = 50
"""Distinct values of an attribute; a number with more is no segment until it is cut into bands."""
STRENGTHS = (30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)
"""Pairs of everybody's taste that are tried beside a segment's own."""
_HELD_OUT = 5
"""Every fifth user is asked which strength predicts them best."""
_MIN_Z = 2.5
"""Standard errors that the gain must lie above 0, over those users: what tells nothing is out."""
SEGMENT_SCHEMA = {
    "attribute": pl.String,
    "value": pl.String,
    "num_users": pl.Int32,
    "item_index": pl.Int32,
    "lift": pl.Float32,
    "gain": pl.Float32,
}
"""``item_index`` 0 stands for all items that the segment never took and others did;
``gain`` is what the attribute told of users that were set aside, in nats an item."""
Profile = Mapping[str, str]
"""Attribute -> value, as text."""


def build_segments(train: Sequences, attributes: pl.DataFrame) -> pl.DataFrame:
    """Return the lifts of all segments that are worth it, columns ``SEGMENT_SCHEMA``.

    Args:
        train: events that are counted.
        attributes: ``user_id`` as in ``train`` and one column an attribute; lists are passed over.
    """
    owned = train.select_events(train.is_item)
    pairs = np.unique(owned.rows() * (train.num_items + 1) + owned.tokens)
    rows, items = np.divmod(pairs, train.num_items + 1)
    by_user = pl.DataFrame({"user_id": train.user_ids}).join(
        attributes.unique("user_id"), on="user_id", how="left", maintain_order="left"
    )
    parts = [pl.DataFrame(schema=SEGMENT_SCHEMA)]
    for name in sorted(set(attributes.columns) - {"user_id"}):
        if not by_user.schema[name].is_nested():
            values = by_user[name].cast(pl.String, strict=False)
            parts.append(_attribute(name, values, rows, items, num_items=train.num_items))
    return pl.concat(parts)


def user_profiles(attributes: pl.DataFrame | None) -> dict[str, Profile]:
    """Return the profile of each user, by id; empty values are left out."""
    if attributes is None:
        return {}
    names = [n for n, kind in attributes.schema.items() if not kind.is_nested() and n != "user_id"]
    texts = attributes.select("user_id", *(pl.col(n).cast(pl.String, strict=False) for n in names))
    return {
        row["user_id"]: {name: row[name] for name in names if row[name] is not None}
        for row in texts.iter_rows(named=True)
    }


def attribute_text(value: bool | int | float | str) -> str:
    """Return a value as segments are named by, which is how a table of users is read.

    >>> attribute_text(True), attribute_text(3), attribute_text(2.5), attribute_text("25-34")
    ('true', '3', '2.5', '25-34')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


class Segments:
    """Look up the lifts of profiles."""

    def __init__(self, table: pl.DataFrame, *, num_items: int, counts: NDArray[np.int64]) -> None:
        """Hold a table of ``build_segments``.

        Args:
            table: lifts.
            num_items: V, of the catalog as it is now; items that came later have a lift of 1.
            counts: int64 ``(V,)``, events; an item without any has a lift of 1.
        """
        self._is_known = counts > 0
        self._num_items = num_items
        self._lifts: dict[tuple[str, str], pl.DataFrame] = {}
        self._remembered: dict[tuple[tuple[str, str], ...], NDArray[np.float32]] = {}
        for key, part in table.partition_by("attribute", "value", as_dict=True).items():
            self._lifts[str(key[0]), str(key[1])] = part

    def lift(self, profile: Profile) -> NDArray[np.float32] | None:
        """Return the lift of each item, float32 ``(V,)``: the geometric mean over the segments.

        The mean, not the product: attributes say the same thing twice. Each counts by its gain.
        ``None`` where the profile
        is in no segment, which leaves what is popular with everybody.
        """
        keys = tuple(sorted(key for key in profile.items() if key in self._lifts))
        if not keys:
            return None
        if keys not in self._remembered:
            total, weight = np.zeros(self._num_items, dtype=np.float64), 0.0
            for key in keys:
                part = self._lifts[key]
                items, gain = part["item_index"].to_numpy(), float(part["gain"][0])
                logs = np.log(part["lift"].to_numpy().astype(np.float64))
                is_rest = items == 0
                own = np.where(self._is_known, float(logs[is_rest].sum()), 0.0)
                own[items[~is_rest] - 1] = logs[~is_rest]
                total += gain * own
                weight += gain
            if len(self._remembered) >= 64:
                self._remembered.clear()
            self._remembered[keys] = np.exp(total / weight).astype(np.float32)
        return self._remembered[keys]

    def lifts(
        self, profiles: Sequence[Profile], is_cold: NDArray[np.bool_]
    ) -> dict[int, NDArray[np.float32]]:
        """Return row -> lift for those users without events whose profile is in a segment."""
        found = ((row, self.lift(profiles[row])) for row in np.flatnonzero(is_cold).tolist())
        return {row: lift for row, lift in found if lift is not None}


def _attribute(
    name: str,
    values: pl.Series,
    rows: NDArray[np.int64],
    items: NDArray[np.int64],
    *,
    num_items: int,
) -> pl.DataFrame:
    """Return the lifts of one attribute's segments; none where it predicts nothing."""
    sizes = values.drop_nulls().value_counts()
    names = sorted(sizes.filter(sizes["count"] >= MIN_USERS)[name].to_list())
    empty = pl.DataFrame(schema=SEGMENT_SCHEMA)
    if len(names) < 2 or sizes.height > MAX_VALUES:
        return empty
    number_of = {value: number for number, value in enumerate(names)}
    segments = np.asarray([number_of.get(value, -1) for value in values.to_list()])[rows]
    asked = (rows % _HELD_OUT == 0) & (segments >= 0)
    found = _strength(segments, rows, items, asked=asked, num_items=num_items)
    if found is None:
        return empty
    strength, gain = found
    everybody = np.bincount(items, minlength=num_items + 1).astype(np.float64)
    shares = everybody / max(1.0, everybody.sum())
    parts = []
    for value, number in number_of.items():
        counts = np.bincount(items[segments == number], minlength=num_items + 1)
        taken = np.flatnonzero(counts)
        rest = strength / (counts.sum() + strength)
        lifts = rest + counts[taken] / (shares[taken] * (counts.sum() + strength))
        parts.append(
            pl.DataFrame(
                {
                    "attribute": name,
                    "value": value,
                    "num_users": int(sizes.filter(sizes[name] == value)["count"][0]),
                    "item_index": np.concatenate([[0], taken]),
                    "lift": np.concatenate([[rest], lifts]),
                    "gain": gain,
                },
                schema=SEGMENT_SCHEMA,
            )
        )
    return pl.concat(parts)


def _strength(
    segments: NDArray[np.int64],
    rows: NDArray[np.int64],
    items: NDArray[np.int64],
    *,
    asked: NDArray[np.bool_],
    num_items: int,
) -> tuple[float, float] | None:
    """Return the strength that predicts the asked users' items best, and what it gains an item.

    ``None`` where everybody's taste predicts them as well.
    """
    told = ~asked
    if not asked.any() or not told.any():
        return None
    # Half a pair for items that nobody told of, so that no likelihood is 0.
    everybody = np.bincount(items[told], minlength=num_items + 1) + 0.5
    shares = everybody / everybody.sum()
    counts = np.zeros((int(segments.max()) + 1, num_items + 1))
    own = told & (segments >= 0)
    np.add.at(counts, (segments[own], items[own]), 1)
    sizes = counts.sum(axis=1)[segments[asked]]
    taken, plain = counts[segments[asked], items[asked]], shares[items[asked]]
    gains = [
        np.log((taken + strength * plain) / ((sizes + strength) * plain)) for strength in STRENGTHS
    ]
    best = int(np.argmax([gain.mean() for gain in gains]))
    # A user's items are no independent witnesses: the error is over users.
    _, user = np.unique(rows[asked], return_inverse=True)
    per_user = np.bincount(user, weights=gains[best]) / np.bincount(user)
    error = float(per_user.std(ddof=1)) / np.sqrt(len(per_user)) if len(per_user) > 1 else np.inf
    is_clear = float(per_user.mean()) > _MIN_Z * error
    return (STRENGTHS[best], float(gains[best].mean())) if is_clear else None
