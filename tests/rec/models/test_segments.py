"""Users without events get what users of their attributes like, where the attributes tell it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rec.data.sequences import Sequences
from rec.models.segments import MIN_USERS, Segments, build_segments, user_profiles
from rec.ranking.recommender import PROFILE_UNKNOWN, Recommender
from rec.ranking.release import read_release_files, write_release_files
from rec.ranking.requests import RankedList, Request
from rec.stages.profiles import stored_profile
from tests.releases import NUM_ITEMS, make_release

NUM_PEOPLE = 200
ITEMS = 40


def make_log(*, likes: Mapping[str, range], seed: int = 0) -> tuple[Sequences, pl.DataFrame]:
    """Return a log of people whose band decides what they take; their shoe size decides nothing."""
    random = np.random.default_rng(seed)
    bands = list(likes)
    people = [f"p{number:03}" for number in range(NUM_PEOPLE)]
    band_of = [bands[number % len(bands)] for number in range(NUM_PEOPLE)]
    tokens = [random.choice(np.asarray(likes[band]), size=6) for band in band_of]
    log = Sequences(
        user_ids=people,
        offsets=np.arange(NUM_PEOPLE + 1) * 6,
        tokens=np.concatenate(tokens).astype(np.int32),
        timestamps_ms=np.tile(np.arange(6), NUM_PEOPLE),
        event_types=np.zeros(NUM_PEOPLE * 6, dtype=np.int16),
        event_type_names=("view",),
        num_items=ITEMS,
    )
    attributes = pl.DataFrame(
        {
            "user_id": people,
            "band": band_of,
            "shoe": random.integers(38, 46, NUM_PEOPLE),
            "id_card": [f"c{n}" for n in range(NUM_PEOPLE)],
        }
    )
    return log, attributes


def test_attribute_that_tells_nothing_and_small_segments_are_left_out() -> None:
    log, attributes = make_log(likes={"young": range(1, 11), "old": range(11, 21)})
    few = attributes.with_columns(
        pl.when(pl.int_range(pl.len()) < MIN_USERS - 1)
        .then(pl.lit("few"))
        .otherwise("band")
        .alias("band")
    )
    assert build_segments(log, attributes)["attribute"].unique().to_list() == ["band"]
    assert set(build_segments(log, attributes)["value"]) == {"young", "old"}
    assert set(build_segments(log, few)["value"]) == {"young", "old"}
    nobody = build_segments(log, attributes.head(0))
    assert nobody.height == 0
    assert nobody.columns == build_segments(log, attributes).columns


def test_lift_is_the_segments_share_over_everybodys() -> None:
    log, attributes = make_log(likes={"young": range(1, 11), "old": range(11, 21)})
    counts = np.bincount(log.tokens, minlength=ITEMS + 1)[1:]
    segments = Segments(build_segments(log, attributes), num_items=ITEMS + 1,
                        counts=np.append(counts, 0))  # fmt: skip
    lift = segments.lift({"band": "young", "shoe": "40"})
    assert lift is not None
    # Half of all people are young and take these items alone: the lift is nearly 2.
    assert lift[:10] == pytest.approx(2.0, abs=0.2)
    assert (lift[10:20] < 0.3).all()
    # Items without any event, and those that came later, say nothing.
    assert (lift[20:] == 1).all()
    assert segments.lift({"band": "middle"}) is None
    assert segments.lift({}) is None


def ask(recommender: Recommender, **wants: object) -> RankedList:
    [answer] = recommender.recommend([Request(**wants)])  # type: ignore[arg-type]
    return answer


@pytest.fixture
def segmented(tmp_path: Path) -> Recommender:
    """Give a release in which the young take items 1 to 10 and the old items 31 to 40."""
    files = read_release_files(make_release(tmp_path))
    log, attributes = make_log(likes={"young": range(1, 11), "old": range(31, 41)})
    log = replace(log, num_items=NUM_ITEMS)
    counts = np.bincount(log.tokens, minlength=NUM_ITEMS + 1)[1:]
    table = files.counts.sort("item_index").with_columns(
        pl.Series("count", counts),
        pl.Series("cold_score", (counts / counts.max()).astype(np.float32)),
    )
    files = replace(
        files,
        counts=table.sort(["cold_score", "item_index"], descending=[True, False]),
        segments=build_segments(log, attributes),
    )
    folder = tmp_path / "written"
    folder.mkdir()
    write_release_files(folder, files)
    return Recommender(read_release_files(folder), release="written")


def test_profile_chooses_whose_popularity_a_new_user_gets(segmented: Recommender) -> None:
    young = ask(segmented, profile={"band": "young"}, explain=True, language="en")
    old = ask(segmented, profile={"band": "old"})
    assert {item.item_id for item in young.items} == {f"item/{n}" for n in range(10)}
    assert {item.item_id for item in old.items} == {f"item/{n}" for n in range(30, 40)}
    assert {item.source for item in young.items} == {"segment"}
    assert young.items[0].explanation is not None
    assert young.items[0].explanation.text == "Popular with users like you."
    # Unknown values back off to everybody's popularity, and the answer says so.
    anyone, stranger = ask(segmented), ask(segmented, profile={"band": "ageless"})
    assert [i.item_id for i in stranger.items] == [i.item_id for i in anyone.items]
    assert stranger.degraded == (PROFILE_UNKNOWN,)
    assert young.degraded == anyone.degraded == ()


def test_segment_keeps_filters_exclusions_and_k(segmented: Recommender) -> None:
    answer = ask(
        segmented,
        profile={"band": "old"},
        k=8,
        exclude=frozenset({"item/30"}),
        filters={"category": ("dress", "coat", "lamp", "sofa")},
    )
    names = segmented.files.items.filter(
        pl.col("category").list.first().is_in(["dress", "coat", "lamp", "sofa"])
    )["item_id"].to_list()
    ids = [item.item_id for item in answer.items]
    assert len(ids) == 8
    assert set(ids) <= set(names) - {"item/30"}
    # The old ones' own three come first; the young ones' four are popular, and no longer here.
    assert set(ids[:3]) == {"item/31", "item/32", "item/33"}


def test_batch_gives_every_row_its_own_segment(segmented: Recommender) -> None:
    wanted = [{"band": "young"}, {}, {"band": "old"}, {"band": "young"}]
    together = segmented.recommend([Request(profile=profile) for profile in wanted])
    alone = [ask(segmented, profile=profile) for profile in wanted]
    assert [list_.items for list_ in together] == [list_.items for list_ in alone]


def test_stored_profile_is_read_by_id_as_text(tmp_path: Path) -> None:
    table = tmp_path / "users.parquet"
    pl.DataFrame({"user_id": ["ann"], "band": [None], "age": [31], "vip": [True]}).write_parquet(
        table
    )
    assert stored_profile(tmp_path, table, "ann") == {"age": "31", "vip": "true"}
    assert stored_profile(tmp_path, table, "bob") == {}
    assert user_profiles(None) == {}
