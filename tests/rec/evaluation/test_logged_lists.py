"""Logged lists: their places earn what names them, and off-policy evaluation reads them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rec.data.events import Event, Impression
from rec.errors import DataError
from rec.evaluation.logged_lists import read_places
from rec.evaluation.off_policy import OffPolicyConfig, ips, snips
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from tests.releases import make_release

SHOWN = Impression(
    impression_id="i", request_id="r", user_id="u", timestamp_ms=1, item_ids=("a", "b", "c"),
    positions=(1, 2, 3), propensities=(1.0, 0.5, 0.25), scores=(3.0, 2.0, 1.0), release="x",
)  # fmt: skip


def event(item_id: str | None, *, kind: str = "view", of: str | None = "i") -> Event:
    return Event(user_id="u", event_type=kind, timestamp_ms=2, item_id=item_id, impression_id=of)


def test_places_earn_what_names_them_and_nothing_else() -> None:
    other = replace(SHOWN, impression_id="j", item_ids=("b",), positions=(1,), propensities=(1.0,))
    events = [
        event("b"), event("b", kind="purchase"), event("c", of=None), event("z"),
        event("a", of="k"), event("b", of="j"), event(None, kind="search"),
    ]  # fmt: skip
    places = read_places([SHOWN, other], events)
    assert places.lists.tolist() == [0, 0, 0, 1]
    assert places.item_ids == ["a", "b", "c", "b"]
    assert places.positions.tolist() == [1, 2, 3, 1]
    assert places.propensities.tolist() == [1.0, 0.5, 0.25, 1.0]
    assert places.rewards.tolist() == [0.0, 2.0, 0.0, 1.0]
    bought = read_places([SHOWN, other], events, weights={"purchase": 5.0})
    assert bought.rewards.tolist() == [0.0, 5.0, 0.0, 0.0]
    assert len(read_places([], events).rewards) == 0


@pytest.mark.parametrize(
    ("propensities", "reason"),
    [
        ((), "has 3 items, 3 positions and 0 propensities"),
        ((1.0, 0.5), "has 3 items, 3 positions and 2 propensities"),
        ((1.0, 0.5, 0.0), r"has a propensity of 0.0, expected one in \(0, 1\]"),
        ((1.0, float("nan"), 0.5), "has a propensity of nan"),
        ((1.0, 1.5, 0.5), "has a propensity of 1.5"),
    ],
)
def test_list_without_propensities_is_refused(propensities: tuple[float, ...], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_places([replace(SHOWN, propensities=propensities)], [])


def test_served_lists_tell_what_they_would_have_earned_without_exploration(
    tmp_path: Path,
) -> None:
    """Rewards are fixed by item, so what the sorted list earns is known exactly."""
    shop = Recommender.load(make_release(tmp_path))
    history = (Event(user_id="u", event_type="view", timestamp_ms=1, item_id="item/1"),)
    [plain] = shop.recommend([Request(history=history, k=6)])
    worth = {item.item_id: 1.0 for item in plain.items[::2]}
    asked = [Request(history=history, k=6, exploration=0.5, seed=seed) for seed in range(1500)]
    impressions = [
        Impression(
            impression_id=str(number), request_id=str(number), user_id="u", timestamp_ms=1,
            item_ids=tuple(item.item_id for item in answer.items),
            positions=tuple(item.position for item in answer.items),
            propensities=tuple(item.propensity for item in answer.items),
            scores=tuple(item.score for item in answer.items), release="x",
        )
        for number, answer in enumerate(shop.recommend(asked))
    ]  # fmt: skip
    events = [
        event(item_id, of=shown.impression_id)
        for shown in impressions
        for item_id in shown.item_ids
        if item_id in worth
    ]
    places = read_places(impressions, events)
    by_place = [item.item_id for item in plain.items]
    is_sorted = [
        by_place[position - 1] == item_id
        for position, item_id in zip(places.positions, places.item_ids, strict=True)
    ]
    target = np.asarray(is_sorted, dtype=np.float64)
    truth = len(worth) / len(by_place)
    for estimate in (ips, snips):
        found = estimate(places.rewards, places.propensities, target, config=OffPolicyConfig())
        assert found.value == pytest.approx(truth, abs=0.03)
    # The drawn lists themselves earned something else.
    assert abs(places.rewards.mean() - truth) > 0.03
