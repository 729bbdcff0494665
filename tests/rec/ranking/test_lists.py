"""What a list as a whole promises: rules hold, terms add up, draws are as likely as they say."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rec.data.events import Event
from rec.errors import ConfigError
from rec.ranking.current import current_release
from rec.ranking.lists.composing import Rules, compose
from rec.ranking.lists.exploring import explore_tail, position_probabilities
from rec.ranking.lists.exposure import ExposureLedger
from rec.ranking.lists.reranking import diversify
from rec.ranking.recommender import Recommender
from rec.ranking.release import RankingConfig
from rec.ranking.requests import RankedList, Request
from tests.releases import make_release


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(make_release(tmp_path_factory.mktemp("lists")))


def with_ranking(recommender: Recommender, **values: object) -> Recommender:
    ranking = replace(recommender.ranking, **values)
    return Recommender(replace(recommender.files, ranking=ranking), release="changed")


def views(*item_ids: str, kind: str = "view") -> tuple[Event, ...]:
    return tuple(
        Event(user_id="u", event_type=kind, timestamp_ms=1_700_000_000_000 + n, item_id=item_id)
        for n, item_id in enumerate(item_ids)
    )


def ids(answer: RankedList) -> list[tuple[str, float]]:
    # Not scores: a sum in a batch of another size is rounded otherwise.
    return [(item.item_id, round(item.propensity, 5)) for item in answer.items]


HISTORY = views("item/1", "item/7", "item/30")


@given(data=st.data())
def test_category_cap_holds_on_every_list_and_a_short_list_says_why(data: st.DataObject) -> None:
    num_items = data.draw(st.integers(1, 12))
    names = st.lists(st.sampled_from("abc"), max_size=2)
    categories = data.draw(st.lists(names, min_size=num_items, max_size=num_items))
    cap, k = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 8))
    num_pinned = data.draw(st.integers(0, min(2, num_items)))
    epsilon = data.draw(st.sampled_from([0.0, 1.0]))
    items = np.arange(1, num_items + 1)[None, :]
    made = compose(
        np.arange(num_items)[None, :],
        items,
        -np.arange(num_items, dtype=np.float32)[None, :],
        num_places=np.array([k]),
        num_pinned=np.array([num_pinned]),
        exploration=np.array([epsilon]),
        seeds=np.array([data.draw(st.integers(0, 99))]),
        rules=Rules(categories=categories, category_cap=cap, exploration_head=1),
    )
    places = made.places[0][made.places[0] >= 0]
    assert len(set(places.tolist())) == len(places)
    assert places[:num_pinned].tolist() == list(range(min(num_pinned, k)))
    free = [name for place in places[num_pinned:].tolist() for name in set(categories[place])]
    pinned = [name for place in range(num_pinned) for name in set(categories[place])]
    for name in free:
        assert free.count(name) + pinned.count(name) <= cap
    assert (len(places) < k) == bool(made.notes[0])
    if len(places) < min(k, num_items):
        assert "category_cap" in made.notes[0]


def test_served_lists_keep_pins_blocks_and_the_cap(small: Recommender) -> None:
    changed = with_ranking(
        small, category_cap=1, pinned=("item/1", "item/9"), blocked=("item/30", "item/2")
    )
    requests = [Request(history=HISTORY, k=8), Request(k=8), Request(k=8, exclude_seen=False)]
    categories = dict(small.files.items.select("item_id", "category").iter_rows())
    for answer in changed.recommend(requests):
        ids = [item.item_id for item in answer.items]
        assert ids[:2] == ["item/1", "item/9"]
        assert answer.items[0].source == "pinned"
        assert not {"item/30", "item/2"} & set(ids)
        kinds = [category for item_id in ids for category in categories[item_id]]
        assert len(ids) == 8
        assert len(kinds) == len(set(kinds))


def test_list_that_rules_leave_short_says_why(small: Recommender) -> None:
    capped = with_ranking(small, category_cap=1)
    [answer] = capped.recommend([Request(history=HISTORY, k=30)])
    assert len(answer.items) == 10  # of ten categories one each
    assert answer.degraded == ("category_cap",)
    [answer] = small.recommend([Request(k=99)])
    assert len(answer.items) == 60
    assert answer.degraded == ("fewer_items",)
    pinned = with_ranking(small, pinned=("item/1",))
    [answer] = pinned.recommend([Request(k=5, exclude=frozenset({"item/1"}))])
    assert "item/1" not in {item.item_id for item in answer.items}
    assert answer.degraded == ("pinned_item_left_out",)


def test_rules_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="both name 'a'"):
        RankingConfig(pinned=("a",), blocked=("b", "a"))
    for values in (
        {"diversity": 1.5}, {"exploration": -0.1}, {"category_cap": 0}, {"group_weight": -1.0},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="must be"):
            RankingConfig(**values)


@pytest.mark.parametrize("field", ["diversity", "exploration"])
def test_request_out_of_range_is_refused(small: Recommender, field: str) -> None:
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=rf"{field} must be in \[0, 1\]"):
            small.recommend([Request(**{field: value})])


def likeness(recommender: Recommender, request: Request) -> float:
    [answer] = recommender.recommend([request])
    places = [recommender.item_ids.index(item.item_id) for item in answer.items]
    chosen = recommender.files.embeddings[places]
    cosines = chosen @ chosen.T
    return float(cosines[~torch.eye(len(places), dtype=torch.bool)].mean())


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_diversity_makes_lists_less_alike(small: Recommender, method: str) -> None:
    recommender = with_ranking(small, diversifier=method)
    levels = [
        likeness(recommender, Request(history=HISTORY, k=10, diversity=value))
        for value in (0.0, 0.5, 1.0)
    ]
    assert levels[0] > levels[1] > levels[2]
    plain, zero = small.recommend(
        [Request(history=HISTORY), Request(history=HISTORY, diversity=0.0)]
    )
    assert ids(plain) == ids(zero)


@given(seed=st.integers(0, 999), diversity=st.floats(0, 1), method=st.sampled_from(["mmr", "dpp"]))
def test_diversified_order_is_a_permutation_with_gaps_last(
    seed: int, diversity: float, method: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn((3, 9), generator=generator)
    scores[1, 4:] = float("-inf")
    embeddings = torch.nn.functional.normalize(torch.randn((3, 9, 4), generator=generator), dim=2)
    order = diversify(
        scores,
        embeddings,
        num_places=6,
        diversity=torch.full((3,), diversity),
        method=method,
    )
    assert (order.sort(dim=1).values == torch.arange(9)).all()
    assert set(order[1, 4:].tolist()) == {4, 5, 6, 7, 8}


def test_dpp_picks_the_largest_determinant_where_relevance_is_equal() -> None:
    embeddings = torch.nn.functional.normalize(
        torch.randn((1, 7, 5), generator=torch.Generator().manual_seed(3)), dim=2
    )
    order = diversify(
        torch.zeros((1, 7)), embeddings, num_places=3, diversity=torch.ones(1), method="dpp"
    )
    picked: list[int] = []
    for _ in range(3):  # greedy by the determinant itself
        gains = {}
        for item in set(range(7)) - set(picked):
            rows = embeddings[0, [*picked, item]].double()
            gains[item] = float(torch.linalg.det(rows @ rows.T)) if picked else -item
        picked.append(max(gains, key=lambda item: gains[item]))
    assert order[0, :3].tolist() == picked


def test_terms_add_up_to_the_score(small: Recommender) -> None:
    changed = with_ranking(
        small, penalty_weight=0.3, repetition_weight=0.5, staleness_weight=0.2, exclude_seen=False
    )
    request = Request(
        history=views("item/1", "item/1", "item/1", "item/7"), k=60, shown={"item/8": 7}
    )
    [answer] = changed.recommend([request])
    weights = {"popularity_penalty": 0.3, "repetition_penalty": 0.5, "staleness_penalty": 0.2}
    terms = {}
    for item in answer.items:
        expected = item.terms["relevance"] - sum(w * item.terms[n] for n, w in weights.items())
        assert item.score == pytest.approx(expected, abs=1e-5)
        assert all(abs(item.terms[name]) <= 3 for name in weights)
        terms[item.item_id] = item.terms["repetition_penalty"]
    assert terms["item/1"] == 2.0  # three looks, nothing bought
    assert terms["item/8"] == 3.0
    assert terms["item/20"] == 0.0


def test_group_above_parity_falls_until_the_other_has_caught_up(small: Recommender) -> None:
    shops = ["big"] * 30 + ["small"] * 30
    ranks = small.files.items.with_columns(group=np.asarray(shops))
    history = views("item/1", "item/2")
    shares = {}
    for weight in (1e-9, 1.0):
        ranking = replace(small.ranking, group_weight=weight)
        recommender = Recommender(
            replace(small.files, ranking=ranking, items=ranks), release="groups"
        )
        for _ in range(100):
            recommender.recommend([Request(history=history, k=5)])
        ledger = recommender._scorer.ledger
        assert ledger is not None
        shares[weight] = dict(zip(ledger.names, ledger.shares().tolist(), strict=True))
    assert abs(shares[1.0]["big"] - 0.5) < 0.06
    assert abs(shares[1.0]["big"] - 0.5) < abs(shares[1e-9]["big"] - 0.5)


def test_items_of_two_groups_count_half_for_each() -> None:
    ledger = ExposureLedger([["a", "b"], ["a"], []])
    ledger.add(np.array([[1, 2, 3]]))
    discounts = 1 / np.log2([2, 3, 4])
    assert ledger.exposure.tolist() == pytest.approx([discounts[0] / 2 + discounts[1], 0.5])
    assert ledger.penalty()[2] == 0.0


def test_group_weight_without_groups_is_refused(small: Recommender) -> None:
    with pytest.raises(ConfigError, match="needs a column 'group'"):
        with_ranking(small, group_weight=1.0)


def test_place_probabilities_are_those_of_all_orders() -> None:
    weights = np.array([5.0, 2.0, 1.0, 0.02])
    exact = np.zeros((4, 4))
    for order in itertools.permutations(range(4)):
        left, chance = weights.sum(), 1.0
        for item in order:
            chance *= weights[item] / left
            left -= weights[item]
        for place, item in enumerate(order):
            exact[item, place] += chance
    for order in itertools.permutations(range(4)):
        found = position_probabilities(weights, np.array(order))
        assert found == pytest.approx([exact[i, p] for p, i in enumerate(order)], abs=1e-10)


def test_lists_come_as_often_as_their_propensities_say(small: Recommender) -> None:
    requests = [Request(history=HISTORY, k=6, exploration=0.6, seed=seed) for seed in range(1500)]
    answers = small.recommend(requests)
    said: dict[tuple[int, str], float] = {}
    counts: dict[tuple[int, str], int] = {}
    for answer in answers:
        for item in answer.items:
            key = (item.position, item.item_id)
            counts[key] = counts.get(key, 0) + 1
            assert said.setdefault(key, item.propensity) == pytest.approx(item.propensity, abs=1e-9)
            assert (item.propensity == 1.0) == (item.position <= 3)
    for key, propensity in said.items():
        spread = 4.5 * np.sqrt(propensity * (1 - propensity) / 1500) + 1e-9
        assert abs(counts[key] / 1500 - propensity) < spread
    for position in (4, 5, 6):
        total = sum(value for (place, _), value in said.items() if place == position)
        assert total == pytest.approx(1.0, abs=0.02)  # what was never drawn is missing


def test_exploration_follows_its_seed_and_is_off_with_one_flag(small: Recommender) -> None:
    first, again, other, off = small.recommend(
        [
            Request(history=HISTORY, exploration=1.0, seed=4),
            Request(history=HISTORY, exploration=1.0, seed=4),
            Request(history=HISTORY, exploration=1.0, seed=5),
            Request(history=HISTORY),
        ]
    )
    assert ids(first) == ids(again)
    assert ids(first) != ids(other)
    assert all(item.propensity == 1.0 for item in off.items)
    alone = small.recommend([Request(history=HISTORY, exploration=1.0, seed=4)])[0]
    assert ids(alone) == ids(first)
    bold = with_ranking(small, exploration=1.0).recommend([Request(history=HISTORY, k=10)])[0]
    assert bold.items[9].propensity < 1.0


def test_nothing_to_draw_from_is_certain() -> None:
    explored = explore_tail(
        np.array([1.0]), num_places=1, epsilon=1.0, generator=np.random.default_rng(0)
    )
    assert explored.propensities.tolist() == [1.0]


def test_real_release_serves_what_it_was_told(released_workspace: Path) -> None:
    recommender = Recommender.load(current_release(released_workspace))
    item_ids = recommender.item_ids
    history = views(*item_ids[:6])
    pinned = with_ranking(recommender, pinned=(item_ids[0], item_ids[50]), category_cap=2)
    [answer] = pinned.recommend([Request(history=history, k=10, diversity=0.5, exploration=1.0)])
    assert [item.item_id for item in answer.items[:2]] == [item_ids[0], item_ids[50]]
    assert len(answer.items) == 10
    assert all(np.isfinite(item.score) for item in answer.items)
