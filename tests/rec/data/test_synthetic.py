"""The synthetic shop: its planted truth can be found, and only by reading order."""

import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from rec.data.synthetic import CATEGORIES, COLOURS, Shop, ShopConfig, make_shop, write_shop
from rec.errors import ConfigError

History = list[int]


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop(ShopConfig(num_users=600))


def cluster_histories(shop: Shop) -> list[History]:
    """Return the clusters of each user's item events in time order."""
    histories: dict[str, History] = defaultdict(list)
    rows = shop.events.sort("timestamp").select("user_id", "item_id")
    for user_id, item_id in rows.drop_nulls().iter_rows():
        histories[user_id].append(shop.item_cluster[item_id])
    return [histories[user_id] for user_id in sorted(histories)]


def next_step_cases(histories: list[History]) -> list[tuple[History, int]]:
    # From the tenth event on, a history is long enough for its order to be destroyed.
    return [(h[:place], h[place]) for h in histories for place in range(10, len(h))]


def transition_accuracy(train: list[History], cases: list[tuple[History, int]]) -> float:
    """Count what followed each cluster; return how often the top guess for the last is right."""
    followers: dict[int, Counter[int]] = defaultdict(Counter)
    for history in train:
        for last, target in pairwise(history):
            followers[last][target] += 1
    guesses = {last: counts.most_common(1)[0][0] for last, counts in followers.items()}
    return float(np.mean([guesses[past[-1]] == target for past, target in cases]))


def test_equal_config_gives_equal_shops_and_another_seed_another() -> None:
    config = ShopConfig(num_users=50)
    first, second = make_shop(config), make_shop(config)
    for name in ("events", "items", "users"):
        assert_frame_equal(getattr(first, name), getattr(second, name))
    assert (first.next_cluster == second.next_cluster).all()
    other = make_shop(ShopConfig(num_users=50, seed=1))
    assert not first.events.equals(other.events)
    assert not first.items.equals(other.items)


def test_items_do_not_depend_on_the_number_of_users() -> None:
    small, large = make_shop(ShopConfig(num_users=10)), make_shop(ShopConfig(num_users=40))
    assert_frame_equal(small.items, large.items)
    assert small.cold_item_ids == large.cold_item_ids


def test_tables_keep_the_data_contract(shop: Shop) -> None:
    assert shop.events.columns == (
        ["user_id", "item_id", "event_type", "timestamp", "value", "query", "session_id"]
    )
    assert shop.events["timestamp"].dtype == pl.Int64
    assert shop.items.columns == (
        ["item_id", "title", "text", "category", "price", "group", "language"]
    )
    assert shop.users.columns == ["user_id", "segment", "language"]
    assert shop.events.height == 600 * 30
    assert shop.events.group_by("user_id").len()["len"].unique().to_list() == [30]
    assert shop.items["item_id"].n_unique() == shop.items.height == 480
    assert shop.items.null_count().sum_horizontal().item() == 0
    is_search = pl.col("event_type") == "search"
    searches, others = shop.events.filter(is_search), shop.events.filter(~is_search)
    assert searches["item_id"].null_count() == searches.height > 1000
    assert searches["query"].null_count() == searches["value"].count() == 0
    assert others["item_id"].null_count() == others["query"].count() == 0
    assert set(others["event_type"]) == {"view", "cart", "purchase"}
    paid = others.filter(pl.col("value").is_not_null())
    assert set(paid["event_type"]) == {"purchase"}
    assert paid.height == others.filter(pl.col("event_type") == "purchase").height
    assert others.join(shop.items, on="item_id", how="anti").height == 0


def test_times_of_a_user_strictly_increase_and_sessions_stand_apart(shop: Shop) -> None:
    gaps = shop.events.sort("user_id", "timestamp").select(
        pl.col("timestamp").diff().over("user_id").alias("gap_ms"),
        (pl.col("session_id") == pl.col("session_id").shift().over("user_id")).alias("is_same"),
    )
    between = gaps.drop_nulls()
    assert (between["gap_ms"] > 0).all()
    assert (between.filter("is_same")["gap_ms"] < 30 * 60 * 1000).all()
    assert (between.filter(~pl.col("is_same"))["gap_ms"] >= 2 * 3600 * 1000).all()
    assert shop.events["timestamp"].is_sorted()
    first, last = (int(shop.events["timestamp"][row]) for row in (0, -1))
    day_ms = 24 * 3600 * 1000
    start_ms = 1_736_121_600_000  # 2025-01-06T00:00Z
    assert start_ms < first < start_ms + 2 * day_ms
    assert start_ms + 58 * day_ms < last < start_ms + 60 * day_ms


def test_last_cluster_tells_the_next_and_order_is_needed(shop: Shop) -> None:
    histories = cluster_histories(shop)
    train, cases = histories[:400], next_step_cases(histories[400:])
    rng = np.random.default_rng(0)
    shuffled = [(rng.permutation(past).tolist(), target) for past, target in cases]
    reversed_ = [(past[::-1], target) for past, target in cases]
    # Followed 0.8 of the time, and a jump hits by chance: 0.8 + 0.2 / 12 = 0.817.
    assert transition_accuracy(train, cases) == pytest.approx(0.817, abs=0.02)
    # A guess that knows nothing is right once in 12: 0.083.
    assert transition_accuracy(train, shuffled) < 0.13
    assert transition_accuracy(train, reversed_) < 0.13


def test_histories_shuffled_before_training_teach_nothing(shop: Shop) -> None:
    rng = np.random.default_rng(1)
    histories = [rng.permutation(history).tolist() for history in cluster_histories(shop)]
    accuracy = transition_accuracy(histories[:400], next_step_cases(histories[400:]))
    assert accuracy == pytest.approx(1 / 12, abs=0.03)


@pytest.mark.parametrize(("follow", "expected"), [(0.0, 1 / 12), (0.5, 0.5 + 0.5 / 12), (1.0, 1.0)])
def test_next_cluster_is_what_users_follow(follow: float, expected: float) -> None:
    shop = make_shop(ShopConfig(num_users=300, follow_probability=follow, seed=5))
    steps = [step for history in cluster_histories(shop) for step in pairwise(history)]
    hits = [shop.next_cluster[last] == target for last, target in steps]
    assert np.mean(hits) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_next_cluster_is_one_cycle_through_all(seed: int) -> None:
    shop = make_shop(ShopConfig(num_users=1, seed=seed))
    cluster, seen = 0, set()
    while cluster not in seen:
        seen.add(cluster)
        cluster = int(shop.next_cluster[cluster])
    assert (cluster, seen) == (0, set(range(12)))


def test_most_users_stand_on_both_sides_of_a_temporal_split(shop: Shop) -> None:
    times = shop.events["timestamp"].to_numpy()
    is_late = pl.Series(times >= np.quantile(times, 0.9))
    early, late = (set(shop.events.filter(side)["user_id"]) for side in (~is_late, is_late))
    assert len(early) == 600
    assert len(late) > 300


def test_2000_users_take_under_two_seconds() -> None:
    started = time.process_time()
    assert make_shop(ShopConfig(num_users=2000)).events.height == 60_000
    assert time.process_time() - started < 2


def test_popular_items_say_little(shop: Shop) -> None:
    counts = shop.events["item_id"].drop_nulls().value_counts(sort=True)
    shares = counts["count"].to_numpy() / counts["count"].to_numpy().sum()
    assert shares[:10].sum() < 0.05  # even shares would give 10 / 480 = 0.021


def test_cold_items_have_no_early_event_and_some_late_ones(shop: Shop) -> None:
    assert len(shop.cold_item_ids) == 72  # 0.15 * 480
    is_cold = pl.col("item_id").is_in(sorted(shop.cold_item_ids))
    events = shop.events.filter(is_cold)
    assert events["item_id"].n_unique() > 60
    first_ms = int(events["timestamp"][0])
    of_items = np.sort(shop.events.drop_nulls("item_id")["timestamp"].to_numpy())
    assert first_ms >= shop.newest_from_ms >= of_items[int(0.9 * len(of_items))]
    assert shop.newest_from_ms >= 1_736_121_600_000 + 54 * 24 * 3600 * 1000  # 0.9 of 60 days
    newest = shop.events.filter(pl.col("timestamp") >= shop.newest_from_ms)
    assert 0.08 < newest.height / shop.events.height <= 0.1
    early = shop.events.filter(pl.col("timestamp") < shop.newest_from_ms)
    assert early["item_id"].drop_nulls().n_unique() == 480 - 72
    # Spread over all clusters, so that each has something to rank that nobody has met.
    assert {shop.item_cluster[item_id] for item_id in shop.cold_item_ids} == set(range(12))


def test_text_of_an_item_says_its_cluster(shop: Shop) -> None:
    ends = {
        colour[code] + gap + thing[code]
        for code, gap in enumerate((" ", ""))
        for colour in COLOURS
        for thing in CATEGORIES
    }
    clusters_named: dict[str, set[int]] = defaultdict(set)
    for item in shop.items.iter_rows(named=True):
        (name,) = (end for end in ends if item["title"].endswith(end))
        assert name in item["text"]
        assert name.endswith(item["category"])
        clusters_named[name].add(shop.item_cluster[item["item_id"]])
    # One name for one cluster in each language, cold items included.
    assert all(len(clusters) == 1 for clusters in clusters_named.values())
    assert len(clusters_named) == 2 * 12


def test_both_languages_are_there_and_users_meet_their_own(shop: Shop) -> None:
    assert shop.items["language"].value_counts().sort("language")["count"].to_list() == [240, 240]
    assert shop.users["language"].value_counts().sort("language")["count"].to_list() == [300, 300]
    language = dict(shop.items.select("item_id", "language").iter_rows())
    pairs = {(cluster, language[item_id]) for item_id, cluster in shop.item_cluster.items()}
    assert pairs == {(cluster, code) for cluster in range(12) for code in ("en", "zh")}
    has_chinese = pl.col("title").str.contains(r"[\u4e00-\u9fff]")
    assert shop.items.filter(has_chinese != (pl.col("language") == "zh")).height == 0
    told = shop.events.join(shop.users, on="user_id")
    with_items = told.join(shop.items.select("item_id", item_language="language"), on="item_id")
    assert with_items.filter(pl.col("language") != pl.col("item_language")).height == 0
    asked = told.drop_nulls("query")
    query_is_chinese = pl.col("query").str.contains(r"[\u4e00-\u9fff]")
    assert asked.filter(query_is_chinese != (pl.col("language") == "zh")).height == 0


def test_a_search_names_the_item_that_follows_it(shop: Shop) -> None:
    ordered = shop.events.sort("user_id", "timestamp").with_columns(
        pl.col("item_id", "session_id").shift(-1).over("user_id").name.prefix("next_")
    )
    searches = ordered.filter(pl.col("event_type") == "search").join(
        shop.items.select("item_id", "title"), left_on="next_item_id", right_on="item_id"
    )
    assert searches.height == ordered["query"].count()
    assert searches.select(pl.col("title").str.ends_with(pl.col("query")).all()).item()
    assert (searches["session_id"] == searches["next_session_id"]).all()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"num_items": 23}, "--shop.num-items"),
        ({"num_clusters": 1}, "--shop.num-clusters"),
        ({"follow_probability": 1.1}, "--shop.follow-probability"),
        ({"cold_share": 0.6}, "--shop.cold-share"),
        ({"days": 4}, "--shop.days"),
        ({"start_ms": -1}, "--shop.start-ms"),
    ],
)
def test_impossible_shops_are_refused(settings: dict[str, int | float | str], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        ShopConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("share", "expected"), [(0.0, {"en"}), (1.0, {"zh"})])
def test_a_shop_can_have_one_language(share: float, expected: set[str]) -> None:
    shop = make_shop(ShopConfig(num_users=20, share_chinese=share, cold_share=0.5))
    assert set(shop.items["language"]) == set(shop.users["language"]) == expected


def test_smallest_shop_can_be_made() -> None:
    shop = make_shop(ShopConfig(num_users=1, num_items=4, num_clusters=2, events_per_user=1))
    assert shop.events.height == 1


def test_written_shop_reads_back_equal(shop: Shop, tmp_path: Path) -> None:
    paths = write_shop(shop, tmp_path / "new" / "shop")
    for path, frame in zip(paths, (shop.events, shop.items, shop.users), strict=True):
        assert_frame_equal(pl.read_parquet(path), frame)
