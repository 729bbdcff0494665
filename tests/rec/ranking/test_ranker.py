"""Candidates, their features and the trees over them: by hand where small, else by property."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
import pytest
import torch

from rec.artifacts import latest_artifact
from rec.data.events import Event
from rec.data.sequences import Sequences, load_sequences
from rec.data.splits import EvaluationSet, next_moments, temporal_split
from rec.errors import ArtifactError, ConfigError
from rec.ranking.columns import FEATURES
from rec.ranking.current import current_release
from rec.ranking.features import SOURCES, Candidates, find_candidates
from rec.ranking.ranker import (
    RANKER_FILE,
    ColdUsers,
    Ranker,
    RankerConfig,
    Trees,
    load_ranker,
    save_ranker,
)
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from rec.ranking.retrieval.sources import (
    SourceTables,
    build_tables,
    hide_items,
    load_tables,
    save_tables,
    score_sources,
)
from rec.stages.cold_items import find_cold_offset
from rec.stages.ranker import fit_ranker
from rec.stages.ranker_examples import (
    Examples,
    Knowledge,
    collect_examples,
    draw_hidden,
    open_window,
)

HOUR_MS = 3_600_000


def sequences(
    *users: list[tuple[int, int]], num_items: int = 6, types: tuple[str, ...] = ("view",)
) -> Sequences:
    """Return sequences of ``(item, hour)`` pairs."""
    events = [event for user in users for event in user]
    return Sequences(
        user_ids=[f"u{row}" for row in range(len(users))],
        offsets=np.cumsum([0, *(len(user) for user in users)]),
        tokens=np.array([item for item, _ in events], dtype=np.int32),
        timestamps_ms=np.array([hour * HOUR_MS for _, hour in events], dtype=np.int64),
        event_types=np.zeros(len(events), dtype=np.int16),
        event_type_names=types,
        num_items=num_items,
    )


def tables_of(train: Sequences) -> SourceTables:
    text = np.eye(train.num_items, 8, dtype=np.float32)
    categories = pl.Series([["even" if item % 2 else "odd"] for item in range(train.num_items)])
    return build_tables(train, text=text, categories=categories)


@pytest.fixture
def train() -> Sequences:
    return sequences([(1, 0), (2, 1), (1, 5)], [(2, 2), (3, 3)], [(4, 4)])


def column(found: Candidates, name: str, *, row: int, item: int) -> float:
    place = np.flatnonzero((found.rows == row) & (found.items == item))
    assert len(place) == 1, f"item {item} is a candidate of row {row} {len(place)} times"
    return float(found.features[place[0], FEATURES.index(name)])


def test_tables_count_what_the_log_holds(train: Sequences) -> None:
    tables = tables_of(train)
    assert tables.counts.tolist() == [2, 2, 1, 1, 0, 0]
    assert tables.num_users.tolist() == [1, 2, 1, 1, 0, 0]
    assert tables.end_ms == 5 * HOUR_MS
    assert tables.first_ms[:4].tolist() == [0, HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS]
    assert tables.last_ms.tolist() == [5 * HOUR_MS, 2 * HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS, -1, -1]
    # Item 1 is followed by 2 (distance 1) and by itself (distance 2).
    np.testing.assert_allclose(tables.follows.toarray()[0, :2], [0.5 / 1.5, 1 / 1.5])
    # All six events fall into the longest window.
    np.testing.assert_allclose(tables.log_shares[0, 0], np.log(2.5 / 7), rtol=1e-6)


def test_tables_survive_a_file(train: Sequences, tmp_path: Path) -> None:
    tables = tables_of(train)
    save_tables(tables, tmp_path / "tables.safetensors")
    loaded = load_tables(tmp_path / "tables.safetensors")
    assert loaded.end_ms == tables.end_ms
    histories = train.select_users(np.array([1, 0]))
    for name, scores in score_sources(tables, histories).items():
        np.testing.assert_array_equal(score_sources(loaded, histories)[name], scores, err_msg=name)


def test_features_of_a_repeated_item(train: Sequences) -> None:
    cosines = np.zeros((3, 6), dtype=np.float32)
    cosines[0] = [0.1, 0.9, 0.3, 0.2, 0.0, -0.5]
    found = find_candidates(tables_of(train), train, cosines=cosines, num_candidates=6)
    assert column(found, "own_count", row=0, item=1) == 2
    assert column(found, "own_share", row=0, item=1) == pytest.approx(2 / 3)
    assert column(found, "own_idle", row=0, item=1) == 0
    assert column(found, "own_idle", row=0, item=2) == pytest.approx(np.log1p(4 * 3600))
    assert np.isnan(column(found, "own_idle", row=0, item=3))
    assert column(found, "sequence_rank", row=0, item=2) == 0
    assert column(found, "sequence_rank", row=0, item=6) == 5
    assert column(found, "history_length", row=1, item=1) == pytest.approx(np.log1p(2))
    assert column(found, "history_repeat_share", row=0, item=1) == pytest.approx(1 / 3)
    assert column(found, "user_idle", row=1, item=1) == pytest.approx(np.log1p(2 * 3600))
    assert np.isnan(column(found, "item_idle", row=0, item=5)), "item 5 has no event"


def test_features_of_habits(train: Sequences) -> None:
    cosines = np.zeros((3, 6), dtype=np.float32)
    tables = tables_of(train)
    found = find_candidates(tables, train, cosines=cosines, num_candidates=6)
    # Ann had item 1 at 0 h and 5 h, item 2 between: three moments of one event.
    expected = {
        "own_rate": (2 / 3, 1 / 3, 0.0),
        "own_rate_since": (2 / 3, 1 / 2, np.nan),
        "own_faded_0.8": (1 + 0.8**2, 0.8, 0.0),
        "own_faded_0.5": (1.25, 0.5, 0.0),
        "own_idle_over_own_gap": (-np.log1p(5 * 3600), np.nan, np.nan),
        "own_places_over_own_gap": (np.log(1 / 2), np.nan, np.nan),
        "user_moments": (np.log1p(3),) * 3,
        "user_moment_size": (1.0,) * 3,
        "user_gap": (np.log1p(2.5 * 3600),) * 3,
    }
    for name, values in expected.items():
        mine = [column(found, name, row=0, item=item) for item in (1, 2, 3)]
        np.testing.assert_allclose(mine, values, rtol=1e-6, err_msg=name)
    # Of the six events two are of item 1, two of item 2, one of item 3.
    taste = (2 * np.log(2.5 / 7) + np.log(2.5 / 7)) / 3
    assert column(found, "user_popularity", row=0, item=3) == pytest.approx(taste)
    above = np.log(1.5 / 7) - taste
    assert column(found, "popularity_over_user", row=0, item=3) == pytest.approx(above)


def test_features_of_the_newest_moment() -> None:
    train = sequences([(2, 0), (1, 5), (4, 5)], [(3, 1)], [])
    cosines = np.zeros((3, 6), dtype=np.float32)
    tables = tables_of(train)
    found = find_candidates(tables, train, cosines=cosines, num_candidates=6)
    # Items 1 and 4 are tied; categories go by turns.
    assert column(found, "newest_category", row=0, item=3) == 0.5
    assert column(found, "newest_category", row=1, item=1) == 1.0
    assert column(found, "newest_category", row=1, item=2) == 0.0
    near = (tables.text[0] + tables.text[3]) @ tables.text[2] / 2
    assert column(found, "newest_text", row=0, item=3) == pytest.approx(near, abs=1e-6)
    # The log's pairs within three events: 2 then 1, 2 then 4, 1 beside 4 both ways.
    assert column(found, "newest_follows", row=0, item=1) == pytest.approx(1 / 2)
    assert column(found, "newest_follows", row=0, item=2) == 0
    assert column(found, "newest_follows", row=1, item=4) == 0, "nothing followed item 3"
    assert column(found, "user_moment_size", row=0, item=3) == 1.5
    assert np.isnan(column(found, "user_moment_size", row=2, item=3)), "nothing is known"
    assert column(found, "newest_category", row=2, item=3) == 0


def test_equal_scores_share_a_rank(train: Sequences) -> None:
    cosines = np.full((3, 6), 0.5, dtype=np.float32)
    found = find_candidates(tables_of(train), train, cosines=cosines, num_candidates=6)
    ranks = found.features[:, FEATURES.index("sequence_rank")]
    assert (ranks == 0).all()


def test_candidate_is_named_by_the_source_that_ranks_it_best(train: Sequences) -> None:
    cosines = np.zeros((3, 6), dtype=np.float32)
    cosines[0] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    found = find_candidates(tables_of(train), train, cosines=cosines, num_candidates=6)
    mine = {
        int(item): SOURCES[source]
        for row, item, source in zip(found.rows, found.items, found.sources, strict=True)
        if row == 0
    }
    assert mine[6] == "sequence", "first place of the sequence model"
    assert mine[1] == "personal", "what the user had most"


def test_nothing_that_is_not_allowed_is_proposed_and_the_rest_fills_up(train: Sequences) -> None:
    histories = sequences([(1, 6)], [])
    cosines = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    cosines[1] = 0
    allowed = np.array([[False, True, True, True, True, False]] * 2)
    found = find_candidates(
        tables_of(train), histories, cosines=cosines, num_candidates=6, allowed=allowed
    )
    for row in (0, 1):
        assert found.items[found.rows == row].tolist() == [2, 3, 4, 5]
    assert (found.sources[found.rows == 1] >= SOURCES.index("popularity")).all()


def test_first_moments_are_what_a_temporal_split_asks(trained_workspace: Path) -> None:
    log = load_sequences(latest_artifact(trained_workspace, "sequences", made_by="prepare").path)
    split = temporal_split(log, quantile=0.8)
    moments = next_moments(log, since_ms=split.cut_ms, per_user=1, max_moments=10**9, seed=3)
    assert moments.histories.user_ids == split.test.histories.user_ids
    np.testing.assert_array_equal(moments.targets, split.test.targets)
    items = split.test.histories
    np.testing.assert_array_equal(
        moments.histories.select_events(moments.histories.is_item).tokens,
        items.select_events(items.is_item).tokens,
    )


@dataclass(frozen=True)
class Window:
    """The shop's ranker window, and towers that say nothing: all must come from other sources."""

    train: Sequences
    since_ms: int
    tables: SourceTables
    ranker: Ranker


def say_nothing(histories: Sequences) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(1, histories.num_items)).astype(np.float32)
    return np.repeat(noise, histories.num_users, axis=0)


def moments_of(train: Sequences, since_ms: int) -> EvaluationSet:
    return next_moments(train, since_ms=since_ms, per_user=5, max_moments=10**6, seed=7)


@pytest.fixture(scope="module")
def window(trained_workspace: Path) -> Window:
    log = load_sequences(latest_artifact(trained_workspace, "sequences", made_by="prepare").path)
    train = temporal_split(log, quantile=0.9).train
    inner = temporal_split(train, quantile=0.9)
    tables = tables_of(inner.train)
    ranker = fit_ranker(
        moments_of(train, inner.cut_ms), knowledge=[Knowledge(tables=tables, cosines=say_nothing)],
        config=RankerConfig(num_trees=40), num_candidates=50,
    )  # fmt: skip
    assert ranker is not None
    return Window(train=train, since_ms=inner.cut_ms, tables=tables, ranker=ranker)


def test_ranker_beats_what_it_reads_out_of_fold(window: Window) -> None:
    assert set(window.ranker.trees) == {"new", "all"}
    for trees in window.ranker.trees.values():
        named = ("sequence", "personal", "accompanies", "recent_popularity")
        assert trees.metrics["trees"] > 1.2 * max(trees.metrics[name] for name in named)
        # This shop's next cluster follows from the last: nothing is left to add to that source.
        assert trees.metrics["trees"] > 0.95 * max(trees.metrics.values())
        assert trees.slope > 0


def test_trees_that_cannot_be_better_are_dropped(window: Window) -> None:
    """Cosines that know what comes next leave nothing to gain: no trees may stand above them."""
    moments = moments_of(window.train, window.since_ms)
    owners = np.repeat(np.arange(moments.num_users), np.diff(moments.target_offsets))
    keys = list(zip(moments.histories.user_ids, moments.histories.lengths.tolist(), strict=True))
    wanted: dict[tuple[str, int], list[int]] = {key: [] for key in keys}
    for owner, item in zip(owners.tolist(), moments.targets.tolist(), strict=True):
        wanted[keys[owner]].append(item)

    def know_all(histories: Sequences) -> np.ndarray:
        scores = np.zeros((histories.num_users, histories.num_items), dtype=np.float32)
        for row, key in enumerate(zip(histories.user_ids, histories.lengths.tolist(), strict=True)):
            scores[row, np.asarray(wanted[key]) - 1] = 1
        return scores

    found = fit_ranker(
        moments, knowledge=[Knowledge(tables=window.tables, cosines=know_all)],
        config=RankerConfig(num_trees=40), num_candidates=50,
    )  # fmt: skip
    assert found is None


def test_best_source_orders_alone_where_trees_are_not_better(window: Window) -> None:
    """A tree whose every leaf needs all rows adds nothing: the best source is named instead."""
    found = fit_ranker(
        moments_of(window.train, window.since_ms),
        knowledge=[Knowledge(tables=window.tables, cosines=say_nothing)],
        config=RankerConfig(num_trees=1, min_leaf_rows=10**8), num_candidates=50,
    )  # fmt: skip
    assert found is not None
    for mode, trees in found.trees.items():
        assert trees.booster is None, mode
        best = max(trees.metrics.values())
        assert trees.metrics[trees.lead] == best, mode
        assert window.ranker.trees[mode].metrics[trees.lead] == best, "the same in both fits"


def test_hidden_items_leave_nothing_but_their_text(train: Sequences) -> None:
    is_hidden = np.array([False, True, False, False, False, False])
    hidden = hide_items(tables_of(train), is_hidden)
    without = tables_of(train.select_events(train.tokens != 2))
    np.testing.assert_array_equal(hidden.counts, without.counts)
    np.testing.assert_array_equal(hidden.last_ms, without.last_ms)
    np.testing.assert_array_equal(hidden.first_ms, without.first_ms)
    np.testing.assert_array_equal(hidden.num_users, without.num_users)
    for name in ("follows", "accompanies", "lifts", "neighbors"):
        table = getattr(hidden, name).toarray()
        assert not table[1].any(), name
        assert not table[:, 1].any(), name
    assert not hidden.kin.toarray()[1].any(), "it is nobody's kin"
    np.testing.assert_allclose(hidden.kin.sum(axis=0), 1, rtol=1e-5)
    assert (hidden.log_shares[1] == hidden.log_shares[4]).all(), "as an item without events"


def test_as_many_items_are_hidden_as_have_no_events(train: Sequences) -> None:
    tables = tables_of(train)
    assert draw_hidden(tables, RankerConfig(max_hidden_share=0)).sum() == 0
    everything = replace(tables, counts=np.ones_like(tables.counts))
    assert draw_hidden(everything, RankerConfig()).sum() == 0, "all items have events"
    many = replace(tables, counts=np.tile([0, 1, 1, 1], 1000))
    assert draw_hidden(many, RankerConfig()).mean() == pytest.approx(0.25 * 0.75, abs=0.03)
    assert not draw_hidden(many, RankerConfig())[::4].any()


def test_item_without_events_is_proposed_by_its_text(train: Sequences) -> None:
    """Items 5 and 6 have no event. All others are nearer to what the user had than item 6 is."""
    angles = np.radians([0, 5, 10, 15, 90, 40])
    text = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    tables = replace(tables_of(train), text=text)
    cosines = np.tile(np.float32([0.9, 0.8, 0.7, 0.6, 0.5, -0.9]), (3, 1))
    found = find_candidates(tables, train, cosines=cosines, num_candidates=1)
    assert 6 in found.items[found.rows == 0]


def two_candidates(*, num_cold_targets: int) -> Examples:
    """Return 20 moments, each with warm item 1 and cold item 2, of which some turn to the cold."""
    features = np.zeros((40, len(FEATURES)), dtype=np.float32)
    features[::2, FEATURES.index("item_users")] = 1.0
    targets = np.where(np.arange(20) < num_cold_targets, 2, 1).astype(np.int32)
    items = np.tile([1, 2], 20)
    return Examples(
        moments=EvaluationSet(
            histories=sequences(*([(3, 0)] for _ in range(20))),
            target_offsets=np.arange(21),
            targets=targets,
        ),
        num_asked=20,
        rows=np.repeat(np.arange(20), 2),
        items=items,
        features=features,
        is_target=items == np.repeat(targets, 2),
    )


def test_items_without_events_start_where_hidden_ones_were_found() -> None:
    """The warm item stands 1 above. A second place is worth 0.63 of a first one."""
    raw = np.tile([1.0, 0.0], 20)
    most = two_candidates(num_cold_targets=15)
    assert find_cold_offset(most, raw, max_loss=0.4) > 1.0, "three of four turn to the cold item"
    assert find_cold_offset(most, raw, max_loss=0.3) <= 1.0, "the others would lose 0.37"
    never = two_candidates(num_cold_targets=0)
    assert find_cold_offset(never, raw, max_loss=0.0) <= 1.0
    assert find_cold_offset(never, raw, max_loss=0.3) <= 1.0, "standing first loses 0.37"
    assert find_cold_offset(never, raw, max_loss=0.4) > 1.0
    never.features[:] = 1.0
    assert find_cold_offset(never, raw, max_loss=0.4) == 0.0, "no item was hidden"


def test_clocks_of_their_own_make_moments_of_last_events() -> None:
    """Users who each count 1, 2, 3 are asked for their last event; a shared time cuts a log."""
    counters = sequences(*([(1, 1), (2, 2), (3, 3)] for _ in range(20)))
    window = open_window(counters, RankerConfig(window_share=0.2))
    assert window is not None
    assert window.moments.targets.tolist() == [3] * 10, "half of the users at most"
    assert sorted(window.known.lengths.tolist()) == [2] * 10 + [3] * 10
    shared = sequences(*([(1, n), (2, n + 1), (3, n + 2)] for n in range(20)))
    window = open_window(shared, RankerConfig(window_share=0.2))
    assert window is not None
    assert window.known.timestamps_ms.max() < window.moments.histories.timestamps_ms.max() + 1e9
    cut = temporal_split(shared, quantile=0.8).cut_ms
    assert window.known.timestamps_ms.max() < cut


def test_log_odds_are_calibrated(window: Window) -> None:
    """The mean probability of the candidates is about the share of them that came next."""
    asked = moments_of(window.train, window.since_ms)
    seen = collect_examples(
        asked, known=Knowledge(tables=window.tables, cosines=say_nothing), num_candidates=50,
        is_new_only=False, max_rows=10**9,
    )  # fmt: skip
    log_odds = window.ranker.log_odds(seen.features, mode="all", num_threads=1)
    # Examples leave out moments without a hit: their candidates are no targets either.
    expected = 1 / (1 + np.exp(-log_odds.astype(np.float64)))
    share = seen.is_target.mean() * seen.hit_share
    assert expected.mean() == pytest.approx(share, rel=0.35)


def test_ranker_survives_its_files(window: Window, tmp_path: Path) -> None:
    kept = Ranker(
        trees={
            mode: replace(
                trees,
                weight=0.5,
                cold_offset=0.3,
                cold_users=ColdUsers(popularity="recent_popularity", intercept=0.25),
            )
            for mode, trees in window.ranker.trees.items()
        }
    )
    save_ranker(kept, tmp_path)
    loaded = load_ranker(tmp_path)
    features = np.random.default_rng(0).normal(size=(20, len(FEATURES))).astype(np.float32)
    for name in ("history_length", "sequence"):
        features[:5, FEATURES.index(name)] = 0.0
    for mode in ("new", "all"):
        np.testing.assert_array_equal(
            loaded.log_odds(features, mode=mode, num_threads=1),
            kept.log_odds(features, mode=mode, num_threads=1),
        )


def test_trees_count_by_their_weight() -> None:
    features = np.zeros((8, len(FEATURES)), dtype=np.float32)
    features[:, FEATURES.index("item_users")] = 1.0
    labels = np.arange(8, dtype=np.float32)
    features[:, FEATURES.index("category")] = labels
    booster = lightgbm.train(
        {"objective": "regression", "min_data_in_leaf": 1, "verbosity": -1},
        lightgbm.Dataset(features, labels, params={"min_data_in_bin": 1}),
        num_boost_round=5,
    )
    said = booster.predict(features)
    assert np.ptp(said) > 0
    whole, none, half = (
        Trees(
            lead="sequence", booster=booster, weight=weight, cold_offset=0.0, slope=1.0,
            intercept=0.0, metrics={},
        ).predict(features, num_threads=1)
        for weight in (1.0, 0.0, 0.5)
    )  # fmt: skip
    np.testing.assert_allclose(whole - none, said)
    np.testing.assert_allclose(half - none, said / 2)


@pytest.fixture(scope="module")
def recommender(released_workspace: Path, window: Window) -> Recommender:
    """Give the shop's release with these trees, whether its own training kept some or not."""
    loaded = Recommender.load(current_release(released_workspace))
    files = replace(loaded.files, ranker=window.ranker, tables=window.tables)
    return Recommender(files, release=loaded.release)


def test_too_small_a_log_has_no_ranker(train: Sequences) -> None:
    def cosines(histories: Sequences) -> np.ndarray:
        return np.zeros((histories.num_users, 6), dtype=np.float32)

    found = fit_ranker(
        moments_of(train, 3 * HOUR_MS),
        knowledge=[Knowledge(tables=tables_of(train), cosines=cosines)],
        config=RankerConfig(), num_candidates=6,
    )  # fmt: skip
    assert found is None


def test_each_request_gets_the_trees_of_its_question(recommender: Recommender) -> None:
    """One batch may mix requests with and without repeats; each answer equals the lone one."""
    history = tuple(
        Event(
            user_id="u", event_type="view", timestamp_ms=1_740_000_000_000 + n * HOUR_MS,
            item_id=recommender.item_ids[n % 3],
        )
        for n in range(9)
    )  # fmt: skip
    requests = [
        Request(history=history, k=10, exclude_seen=True),
        Request(history=history, k=10, exclude_seen=False),
        Request(k=10),
    ]
    together = recommender.recommend(requests)
    for request, answer in zip(requests, together, strict=True):
        [alone] = recommender.recommend([request])
        assert [i.item_id for i in alone.items] == [i.item_id for i in answer.items]
        assert len(answer.items) == 10
    seen = set(recommender.item_ids[:3])
    assert not seen & {item.item_id for item in together[0].items}
    assert {item.source for item in together[2].items} <= {
        "popularity", "recent_popularity", "newest_popularity",
    }  # fmt: skip


def test_mode_without_trees_is_ordered_by_cosine(
    recommender: Recommender, train: Sequences
) -> None:
    """With trees for repeats only, new items are ordered as without any ranker."""
    files = recommender.files
    assert files.ranker is not None
    repeats_only = Ranker(trees={"all": files.ranker.trees["all"]})
    half = Recommender(replace(files, ranker=repeats_only), release="half")
    none = Recommender(replace(files, ranker=None, tables=None), release="none")
    histories = replace(train, num_items=len(recommender.item_ids))
    for seen, same in ((True, none), (False, recommender)):
        ours = half.rank(histories, k=10, exclude_seen=seen)
        theirs = same.rank(histories, k=10, exclude_seen=seen)
        np.testing.assert_array_equal(ours.items, theirs.items)
        np.testing.assert_array_equal(ours.relevance, theirs.relevance)


def test_whole_catalog_can_be_listed(recommender: Recommender) -> None:
    num_items = len(recommender.item_ids)
    [answer] = recommender.recommend([Request(k=num_items + 5)])
    assert len({item.item_id for item in answer.items}) == num_items


def test_ranker_of_other_features_is_refused(window: Window, tmp_path: Path) -> None:
    save_ranker(window.ranker, tmp_path)
    values = json.loads((tmp_path / RANKER_FILE).read_text())
    values["features"] = values["features"][1:]
    (tmp_path / RANKER_FILE).write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"run jobs\.train"):
        load_ranker(tmp_path)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="window-share must be in"):
        RankerConfig(window_share=1.0)
    with pytest.raises(ConfigError, match="num-trees must be >= 1, got 0"):
        RankerConfig(num_trees=0)


def test_predicting_needs_no_second_thread(recommender: Recommender) -> None:
    """Equal answers for any number of threads: the trees are deterministic."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        [one] = recommender.recommend([Request(k=10)])
        torch.set_num_threads(2)
        [two] = recommender.recommend([Request(k=10)])
    finally:
        torch.set_num_threads(threads)
    assert one == two
