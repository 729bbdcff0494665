"""What holds on every list, whatever is asked and whatever the rules are: k items, or a reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rec.data.events import Event
from rec.errors import ArtifactError, ConfigError, DataError
from rec.ranking.lists.exposure import ExposureLedger
from rec.ranking.recommender import Recommender
from rec.ranking.release import EMBEDDINGS_FILE, RankingConfig, read_release_files
from rec.ranking.requests import RankedList, Request
from tests.releases import COLOURS, KINDS, NUM_ITEMS, START_MS, make_release


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(make_release(tmp_path_factory.mktemp("guarantees")))


def with_ranking(recommender: Recommender, ranking: RankingConfig) -> Recommender:
    return Recommender(replace(recommender.files, ranking=ranking), release="changed")


item_ids = st.sampled_from([f"item/{n}" for n in range(NUM_ITEMS)] + ["no such item"])
some_ids = st.lists(item_ids, max_size=4, unique=True)
rules = st.builds(
    lambda pinned, blocked, **values: RankingConfig(
        pinned=tuple(pinned), blocked=tuple(set(blocked) - set(pinned)), **values
    ),
    pinned=some_ids,
    blocked=some_ids,
    category_cap=st.none() | st.integers(1, 3),
    exclude_seen=st.booleans(),
    penalty_weight=st.sampled_from([0.0, 0.3, 1000.0]),
    repetition_weight=st.sampled_from([0.0, 1.0]),
    diversifier=st.sampled_from(["mmr", "dpp"]),
    exploration_head=st.integers(0, 3),
    num_candidates=st.sampled_from([1, 10, 100]),
)
filters = st.dictionaries(
    st.sampled_from(["category", "colour"]),
    st.lists(st.sampled_from([*COLOURS, *KINDS, "nothing"]), max_size=3).map(tuple),
    max_size=2,
)
requests = st.builds(
    Request,
    history=st.lists(item_ids, max_size=5).map(
        lambda found: tuple(
            Event(user_id="u", event_type="view", timestamp_ms=START_MS + n, item_id=item_id)
            for n, item_id in enumerate(found)
        )
    ),
    k=st.sampled_from([1, 3, 10, 60, 61, 10**9]),
    exclude=some_ids.map(frozenset),
    filters=filters,
    exclude_seen=st.none() | st.booleans(),
    penalty_weight=st.none() | st.floats(0, 1000),
    diversity=st.none() | st.floats(0, 1),
    exploration=st.none() | st.floats(0, 1),
    seed=st.integers(0, 9),
    candidates=st.none() | st.lists(item_ids, max_size=20).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(ranking=rules, request=requests)
def test_every_list_keeps_every_rule_or_says_why(
    small: Recommender, ranking: RankingConfig, request: Request
) -> None:
    [answer] = with_ranking(small, ranking).recommend([request])
    ids = [item.item_id for item in answer.items]
    rows = {row["item_id"]: row for row in small.files.items.iter_rows(named=True)}
    assert len(ids) == len(set(ids)) <= request.k
    assert len(ids) == request.k or {"fewer_items", "category_cap"} & set(answer.degraded)
    assert [item.position for item in answer.items] == list(range(1, len(ids) + 1))
    assert all(np.isfinite(item.score) and 0 < item.propensity <= 1 for item in answer.items)
    assert not {*ranking.blocked, *request.exclude} & set(ids)
    if request.candidates is not None:
        assert set(ids) <= set(request.candidates)
    for item_id in ids:
        assert _matches(rows[item_id], request.filters)
    pinned = [item.item_id for item in answer.items if item.source == "pinned"]
    known = [item_id for item_id in ranking.pinned if item_id in rows]
    # A pin that the request rules out is left out, and said so; the others stand first, in order.
    assert ids[: len(pinned)] == pinned == [i for i in known if i in pinned]
    ruled_out = [i for i in known if i in request.exclude or not _matches(rows[i], request.filters)]
    assert not set(ruled_out) & set(pinned)
    if ruled_out:
        assert "pinned_item_left_out" in answer.degraded
    hides = ranking.exclude_seen if request.exclude_seen is None else request.exclude_seen
    if hides:
        seen = {event.item_id for event in request.history}
        assert not seen & (set(ids) - set(ranking.pinned))
    if ranking.category_cap is not None:
        counts = Counter(name for item_id in ids for name in rows[item_id]["category"])
        pins = Counter(name for item_id in pinned for name in rows[item_id]["category"])
        assert all(n <= max(ranking.category_cap, pins[name]) for name, n in counts.items())


def _matches(row: Mapping[str, object], wanted: Mapping[str, tuple[str, ...]]) -> bool:
    def has(name: str, value: str) -> bool:
        held = row[name]
        return value in held if isinstance(held, list) else value == held

    return all(any(has(name, value) for value in values) for name, values in wanted.items())


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), 1001.0])
def test_weight_out_of_range_is_refused_everywhere(small: Recommender, weight: float) -> None:
    for name in ("penalty_weight", "repetition_weight", "staleness_weight", "group_weight"):
        with pytest.raises(ConfigError, match=rf"--ranking.{name.replace('_', '-')} must be"):
            RankingConfig(**{name: weight})
    with pytest.raises(ConfigError, match="penalty_weight must be"):
        small.recommend([Request(penalty_weight=weight)])


def test_no_place_and_unknown_attributes_are_refused(small: Recommender) -> None:
    for k in (0, -1):
        with pytest.raises(ConfigError, match="k must be >= 1"):
            small.recommend([Request(k=k)])
    with pytest.raises(DataError, match=r"unknown filter 'size', the items have .*colour"):
        small.recommend([Request(filters={"size": ("L",)})])


def test_embeddings_that_are_no_numbers_are_refused(
    small: Recommender, tmp_path_factory: pytest.TempPathFactory
) -> None:
    width = small.files.text.shape[1]
    for row in (np.full(width, np.nan, np.float32), np.ones(width - 1, np.float32)):
        with pytest.raises(DataError, match=f"expected {width} finite numbers .* of 'tea'"):
            small.recommend([Request(query_embeddings={"tea": row})])
    folder = make_release(tmp_path_factory.mktemp("nan"))
    tensors = load_file(folder / EMBEDDINGS_FILE)
    tensors["items"][3, 2] = torch.nan
    save_file(tensors, folder / EMBEDDINGS_FILE)
    with pytest.raises(ArtifactError, match="items holds NaN"):
        read_release_files(folder)


def test_exploration_is_by_class_by_request_and_off_with_one_flag(small: Recommender) -> None:
    ranking = RankingConfig(exploration=0.0, exploration_by_class=("home=1.0", "cart=0"))

    def ask(ranking: RankingConfig, **values: object) -> RankedList:
        request = Request(k=10, exclude_seen=False, seed=3, **values)
        return with_ranking(small, ranking).recommend([request])[0]

    def is_drawn(answer: RankedList) -> bool:
        return answer.items[9].propensity < 1

    assert is_drawn(ask(ranking, request_class="home"))
    for request_class in ("cart", "mail", None):
        assert not is_drawn(ask(ranking, request_class=request_class))
    assert is_drawn(ask(ranking, request_class="cart", exploration=1.0))
    assert not is_drawn(ask(ranking, request_class="home", exploration=0.0))
    off = replace(ranking, exploration=1.0, never_explore=True)
    assert not is_drawn(ask(off, request_class="home"))
    asked = ask(off, exploration=1.0)
    assert not is_drawn(asked)
    assert asked.degraded == ("exploration_off",)
    for wrong in ("home", "home=2", "=0.5", "home=x", "home=nan"):
        with pytest.raises(ConfigError, match="CLASS=PROBABILITY"):
            RankingConfig(exploration_by_class=(wrong,))
    with pytest.raises(ConfigError, match="each class once"):
        RankingConfig(exploration_by_class=("home=0.1", "home=0.2"))


def test_exposure_of_items_in_several_groups_is_evened_out_over_time(small: Recommender) -> None:
    """Ten lists of ten cannot be fair each; together they come near to each group's share."""
    groups = [["big", "red"] if n < 40 else ["small"] if n < 55 else ["small", "rare"]
              for n in range(NUM_ITEMS)]  # fmt: skip
    items = small.files.items.with_columns(group=np.asarray(["x"] * NUM_ITEMS))
    items = items.with_columns(group=groups_column(groups))
    gaps = []
    for weight in (1e-9, 2.0):
        ranking = replace(small.ranking, group_weight=weight)
        recommender = Recommender(
            replace(small.files, ranking=ranking, items=items), release="groups"
        )
        ledger = recommender._scorer.ledger
        assert isinstance(ledger, ExposureLedger)
        history = (Event(user_id="u", event_type="view", timestamp_ms=1, item_id="item/1"),)
        found = []
        for count in range(150):
            recommender.recommend([Request(history=history, k=5)])
            if count in (9, 149):
                found.append(float(np.abs(ledger.shares() - ledger.target).max()))
        gaps.append(found)
    assert set(ledger.names) == {"big", "red", "small", "rare"}
    assert gaps[1][1] < 0.05 < gaps[0][1]
    assert gaps[1][1] <= gaps[1][0] + 1e-9  # amortised: the longer, the nearer


def groups_column(groups: list[list[str]]) -> object:
    import polars as pl

    return pl.Series("group", groups, dtype=pl.List(pl.String))
