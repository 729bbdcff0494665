"""New items' places: each list keeps them, no rule gives way to them, and draws stay as likely."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec.data.events import Event
from rec.errors import ConfigError
from rec.ranking.feedback.item_changes import ItemChange
from rec.ranking.lists.composing import Composed, Rules, compose
from rec.ranking.live_catalog import LiveRecommender
from rec.ranking.naming import NEW_ITEM
from rec.ranking.recommender import Recommender
from rec.ranking.release import RankingConfig
from rec.ranking.requests import RankedList, Request
from tests.releases import NUM_ITEMS, make_release

HISTORY = tuple(
    Event(user_id="u", event_type="view", timestamp_ms=1_700_000_000_000 + n, item_id=item_id)
    for n, item_id in enumerate(("item/1", "item/7", "item/30"))
)
NEW = ("item/3", "item/12", "item/44", "item/58")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(make_release(tmp_path_factory.mktemp("new-items")))


def with_quota(recommender: Recommender, **values: object) -> Recommender:
    """Return a release whose items have ten events each, those of ``NEW`` none."""
    counts = recommender.files.counts.with_columns(
        pl.when(pl.col("item_id").is_in(NEW)).then(0).otherwise(10).alias("count")
    )
    ranking = replace(recommender.ranking, **{"new_item_places": 1, **values})
    return Recommender(replace(recommender.files, ranking=ranking, counts=counts), release="new")


def ids(answer: RankedList) -> list[str]:
    return [item.item_id for item in answer.items]


def make(data: st.DataObject, *, epsilon: float, seed: int = 0) -> Composed:
    """Compose one list of drawn candidates, by score from the left."""
    size = data.draw(st.integers(1, 14))
    names = st.lists(st.sampled_from("abcd"), max_size=2)
    return compose(
        np.arange(size)[None, :],
        np.arange(1, size + 1)[None, :],
        -np.arange(size, dtype=np.float32)[None, :],
        num_places=np.array([data.draw(st.integers(1, 8))]),
        num_pinned=np.array([data.draw(st.integers(0, min(2, size)))]),
        exploration=np.array([epsilon]),
        seeds=np.array([seed]),
        rules=Rules(
            categories=data.draw(st.lists(names, min_size=size, max_size=size)),
            category_cap=data.draw(st.none() | st.integers(1, 3)),
            exploration_head=data.draw(st.integers(0, 3)),
            new_item_places=data.draw(st.integers(0, 4)),
        ),
        is_new=np.asarray(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))[None],
    )


@settings(max_examples=60, deadline=None)
@given(
    places=st.integers(0, 4),
    k=st.sampled_from([1, 2, 5, 10, 61]),
    pinned=st.lists(st.sampled_from(["item/1", "item/9", "item/44"]), max_size=3, unique=True),
    blocked=st.lists(st.sampled_from(["item/3", "item/20"]), max_size=2, unique=True),
    cap=st.none() | st.integers(1, 3),
    exclude=st.lists(st.sampled_from(["item/12", "item/58", "item/1"]), max_size=2),
    colour=st.none() | st.sampled_from(["red", "blue", "red or green"]),
    exploration=st.sampled_from([0.0, 1.0]),
    diversity=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 9),
)
def test_every_list_has_its_new_items_and_keeps_every_other_rule(
    small: Recommender,
    places: int,
    k: int,
    pinned: list[str],
    blocked: list[str],
    cap: int | None,
    exclude: list[str],
    colour: str | None,
    exploration: float,
    diversity: float,
    seed: int,
) -> None:
    rules = {"pinned": tuple(pinned), "blocked": tuple(blocked), "category_cap": cap}
    colours = () if colour is None else tuple(colour.split(" or "))
    request = Request(
        history=HISTORY, k=k, exclude=frozenset(exclude), exploration=exploration,
        diversity=diversity, seed=seed, filters={"colour": colours} if colours else {},
    )  # fmt: skip
    [plain] = with_quota(small, new_item_places=0, **rules).recommend([request])
    [answer] = with_quota(small, new_item_places=places, **rules).recommend([request])
    rows = {row["item_id"]: row for row in small.files.items.iter_rows(named=True)}
    found = ids(answer)
    stands = [
        i for i in pinned if i not in exclude and (not colours or rows[i]["colour"] in colours)
    ]
    assert found[: len(stands)] == stands[:k]
    assert len(found) == len(set(found))
    assert not {*blocked, *exclude, "item/1", "item/7", "item/30"} - set(stands) & set(found)
    assert all(rows[i]["colour"] in colours for i in found if colours)
    counts = Counter(name for i in found for name in rows[i]["category"])
    pins = Counter(name for i in stands for name in rows[i]["category"])
    assert cap is None or all(n <= max(cap, pins[name]) for name, n in counts.items())
    if cap is None:
        # A cap may leave other lists of another length; without one none is shorter for it.
        assert len(found) == len(plain.items)
        free = [i for i in NEW if i not in {*blocked, *exclude, *stands}]
        allowed = [i for i in free if not colours or rows[i]["colour"] in colours]
        wanted = min(places, (k - len(stands[:k])) // 2, len(allowed))
        assert len(set(found) & set(allowed)) >= wanted
    for item in answer.items:
        assert (NEW_ITEM in item.terms) == (places > 0)
        if item.terms.get(NEW_ITEM):
            assert item.item_id in NEW
            assert item.propensity == 1.0


@given(data=st.data(), seed=st.integers(0, 99))
def test_held_items_stand_in_every_draw_where_the_sorted_list_has_them(
    data: st.DataObject, seed: int
) -> None:
    made = make(data, epsilon=1.0, seed=seed)
    places = made.places[0][made.places[0] >= 0]
    assert len(set(places.tolist())) == len(places)
    assert (made.propensities > 0).all()
    assert (made.propensities[made.is_quota] == 1.0).all()
    assert made.is_quota[0].sum() <= made.places.shape[1] // 2


@pytest.mark.parametrize("cap", [None, 2])
def test_propensities_beside_a_quota_are_the_shares_of_what_is_drawn(cap: int | None) -> None:
    size, k, draws = 12, 6, 2000
    is_new = np.zeros((draws, size), dtype=np.bool_)
    is_new[:, [3, 10]] = True  # one stands by its score, one by the quota
    made = compose(
        np.tile(np.arange(size), (draws, 1)),
        np.tile(np.arange(1, size + 1), (draws, 1)),
        np.tile(-0.3 * np.arange(size, dtype=np.float32), (draws, 1)),
        num_places=np.full(draws, k),
        num_pinned=np.ones(draws, dtype=np.int64),
        exploration=np.full(draws, 0.7),
        seeds=np.arange(draws),
        rules=Rules(
            categories=[["abcd"[column % 4]] for column in range(size)],
            category_cap=cap,
            exploration_head=2,
            new_item_places=2,
        ),
        is_new=is_new,
    )
    assert (made.places[:, [0, 1, 3, 5]] == [0, 1, 3, 10]).all()
    assert made.is_quota.sum(axis=0).tolist() == [0, 0, 0, 0, 0, draws]
    assert (made.propensities[:, [0, 1, 3, 5]] == 1.0).all()
    for place in (2, 4):
        for column in range(size):
            is_here = made.places[:, place] == column
            if is_here.any():
                said = np.unique(made.propensities[is_here, place])
                assert np.ptp(said) < 1e-9  # one policy, one number
                error = 4 * np.sqrt(said[0] * (1 - said[0]) / draws)
                assert is_here.mean() == pytest.approx(said[0], abs=error + 1e-9)
    assert len(np.unique(made.places[:, 2])) > 1


def test_new_item_says_so_and_makes_room_when_it_has_been_shown_often_enough(
    small: Recommender,
) -> None:
    shop = with_quota(small, new_item_impressions=3, exclude_seen=False)
    request = Request(history=HISTORY, k=5, explain=True)
    counts: Counter[str] = Counter()
    for _ in range(20):
        [answer] = shop.recommend([request])
        counts.update(set(ids(answer)) & set(NEW))
        for item in answer.items:
            if item.terms[NEW_ITEM]:
                assert item.position == 5
                assert item.explanation is not None
                assert item.explanation.evidence or "Few users" in item.explanation.text
    plain = set(
        ids(with_quota(small, new_item_places=0, exclude_seen=False).recommend([request])[0])
    )
    assert {i: n for i, n in counts.items() if i not in plain} == dict.fromkeys(set(NEW) - plain, 3)
    [later] = shop.recommend([request])
    assert [i for i in ids(later) if i in NEW] == [i for i in ids(later) if i in plain & set(NEW)]


def test_new_items_of_a_stranger_take_turns(small: Recommender) -> None:
    shop = with_quota(small, new_item_impressions=2)
    shown = [ids(answer)[-1] for _ in range(8) for answer in shop.recommend([Request(k=4)])]
    assert Counter(shown) == dict.fromkeys(NEW, 2)


@pytest.mark.parametrize("k", [3, 4])
def test_given_candidates_are_ordered_and_nothing_else(small: Recommender, k: int) -> None:
    plain, shop = with_quota(small, new_item_places=0), with_quota(small, new_item_places=2)
    whole = ids(plain.recommend([Request(history=HISTORY, k=NUM_ITEMS)])[0])
    better = [i for i in whole[: whole.index("item/44")] if i not in NEW][:3]
    request = Request(history=HISTORY, k=k, candidates=("item/44", *better))
    # The new item is the last of the four: of three places it has none, quota or not.
    for recommender in (plain, shop):
        assert ids(recommender.recommend([request])[0]) == [*better, "item/44"][:k]
    # The quota is there: whoever asks for the whole catalog beside it gets new items.
    both = shop.recommend([request, Request(history=HISTORY, k=k)])
    assert ids(both[0]) == [*better, "item/44"][:k]
    assert set(ids(both[1])) & set(NEW)


def test_count_of_what_was_shown_outlives_a_change_of_the_catalog(small: Recommender) -> None:
    class Log:
        def __init__(self) -> None:
            self.changes: list[ItemChange] = []

        def after(self, seq: int) -> list[ItemChange]:
            return [change for change in self.changes if change.seq > seq]

    log, shop = Log(), with_quota(small, new_item_impressions=2)
    live = LiveRecommender(shop.files, release="new", changes=log, through=0)
    request = Request(history=HISTORY, k=4)
    first = [ids(live.follow().recommend([request])[0])[-1] for _ in range(2)]
    log.changes.append(
        ItemChange(
            seq=1, item_id="fresh", timestamp_ms=1, item={"title": "fresh lamp"},
            embedding=small.files.text[1].numpy(), fingerprint=small.files.fingerprint,
        )
    )  # fmt: skip
    after = [ids(live.follow().recommend([request])[0])[-1] for _ in range(8)]
    assert live.follow().times_shown is not None
    assert len(live.follow().item_ids) == NUM_ITEMS + 1
    assert first[0] == first[1]
    assert first[0] not in after
    assert "fresh" in after  # an item that was just put has its turn


def test_quota_out_of_range_is_refused() -> None:
    for name, value in (
        ("new_item_places", -1), ("new_item_events", 0), ("new_item_impressions", 0),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"--ranking.{name.replace('_', '-')} must be"):
            RankingConfig(**{name: value})
