"""Logged lists with what came of them: impressions joined to the events that name them.

A place earned a reward where an event names the impression and the item that stood there. These are
the arrays that :mod:`rec.evaluation.off_policy` weighs.

Shapes: N places of all lists together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.data.events import Event, Impression
from rec.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedPlaces:
    """Hold every place of some lists, in order.

    Attributes:
        lists: int64 ``(N,)``, which impression a place is of.
        positions: int64 ``(N,)``, from 1.
        item_ids: of each place.
        propensities: float64 ``(N,)``, of the item at its position.
        rewards: float64 ``(N,)``, sum of the weights of the events that followed.
    """

    lists: NDArray[np.int64]
    positions: NDArray[np.int64]
    item_ids: Sequence[str]
    propensities: NDArray[np.float64]
    rewards: NDArray[np.float64]


def read_places(
    impressions: Sequence[Impression],
    events: Iterable[Event],
    *,
    weights: Mapping[str, float] | None = None,
) -> LoggedPlaces:
    """Return the places of lists with their rewards.

    Args:
        impressions: the lists.
        events: those that name none of the lists, or no item of theirs, earn nothing.
        weights: event type -> what one is worth, others nothing; 1 for each type if absent.

    Raises:
        DataError: a list lacks propensities, or they are no probabilities: it says nothing about
            another policy.

    Of two shown items the second was bought.

    >>> shown = Impression(
    ...     impression_id="i", request_id="r", user_id="u", timestamp_ms=1, item_ids=("a", "b"),
    ...     positions=(1, 2), propensities=(1.0, 0.5), scores=(2.0, 1.0), release="x",
    ... )
    >>> bought = Event(
    ...     user_id="u", event_type="purchase", timestamp_ms=2, item_id="b", impression_id="i"
    ... )
    >>> read_places([shown], [bought]).rewards.tolist()
    [0.0, 1.0]
    """
    earned: dict[tuple[str, str], float] = {}
    for event in events:
        if event.impression_id is not None and event.item_id is not None:
            key = (event.impression_id, event.item_id)
            worth = 1.0 if weights is None else weights.get(event.event_type, 0.0)
            earned[key] = earned.get(key, 0.0) + worth
    lists: list[int] = []
    positions: list[int] = []
    item_ids: list[str] = []
    propensities: list[float] = []
    rewards: list[float] = []
    for number, shown in enumerate(impressions):
        _check(shown)
        lists += [number] * len(shown.item_ids)
        positions += shown.positions
        item_ids += shown.item_ids
        propensities += shown.propensities
        rewards += [earned.get((shown.impression_id, item), 0.0) for item in shown.item_ids]
    return LoggedPlaces(
        lists=np.asarray(lists, dtype=np.int64),
        positions=np.asarray(positions, dtype=np.int64),
        item_ids=item_ids,
        propensities=np.asarray(propensities, dtype=np.float64),
        rewards=np.asarray(rewards, dtype=np.float64),
    )


def _check(shown: Impression) -> None:
    number = len(shown.item_ids)
    if not len(shown.propensities) == len(shown.positions) == number:
        raise DataError(
            f"impression {shown.impression_id} has {number} items, {len(shown.positions)} "
            f"positions and {len(shown.propensities)} propensities, expected one of each an item: "
            "a list logged without propensities says nothing about another policy, leave it out"
        )
    bad = [value for value in shown.propensities if not 0 < value <= 1]
    if bad:
        raise DataError(
            f"impression {shown.impression_id} has a propensity of {bad[0]}, expected one in "
            "(0, 1]: it was not logged by the policy that showed the list, leave it out"
        )
