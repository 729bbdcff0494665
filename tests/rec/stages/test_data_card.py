import json
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

from rec.data.cleaning import CleaningConfig
from rec.data.log_statistics import LogStatistics, add_statistics, log_statistics
from rec.data.near_duplicates import find_near_duplicates
from rec.data.synthetic import Shop
from rec.stages.data_card_page import render_card
from rec.stages.preparation import Prepared, prepare
from tests.rec.evaluation.test_report import ATTACK, Page

T = 1_600_000_000  # 2020-09-13T12:26:40Z
LONG = "a light summer dress made of soft red cotton with long sleeves and two deep pockets"
ITEMS = [
    ("i1", LONG),
    ("i2", LONG.replace("deep", "big")),
    ("i3", "红色连衣裙"),
    ("i4", "Красное платье"),
]


def run(folder: Path, lines: list[str], *, num_partitions: int = 3, **settings: Any) -> Prepared:
    folder.mkdir(exist_ok=True)
    header = "user_id,item_id,event_type,timestamp,query"
    (folder / "events.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    pl.DataFrame(ITEMS, schema=["item_id", "title"], orient="row").write_csv(folder / "items.csv")
    return prepare(
        folder / "workspace",
        events=[str(folder / "events.csv")],
        items=[str(folder / "items.csv")],
        config=CleaningConfig(**{"pseudonymize_users": False, **settings}),
        num_partitions=num_partitions,
        now_ms=1_700_000_000_000,
    )


def read_card(prepared: Prepared) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((prepared.events.path / "data_card.json").read_text())
    return card


LINES = [
    f"u1,i1,view,{T},",
    f"u1,i3,view,{T},",  # tied with the one before
    f"u1,i1,cart,{T + 60},",
    f"u1,,search,{T + 9000},red dress",  # a new session
    f"u2,i1,view,{T + 30 * 86400},",
    f"u2,,search,{T + 30 * 86400 + 1},连衣裙",
    f"u3,i1,view,{T + 5},",
    f"u3,i1,view,{T + 5},",  # the same again
    f"u3,i9,view,{T + 5},",  # not in the catalog
]


def test_card_says_what_a_hand_can_count(tmp_path: Path) -> None:
    card = read_card(run(tmp_path, LINES))
    assert card["rows"] == {
        "rows_in": 9,
        "kept": 7,
        "duplicates": {"same_event_id": 1},
        "quarantined": {"unknown_item": 1},
    }
    assert '"i9"' in card["samples"]["unknown_item"][0]
    assert card["event_types"] == {"cart": 1, "search": 2, "view": 4}
    assert card["time"] == {
        "first": "2020-09-13T12:26:40+00:00",
        "last": "2020-10-13T12:26:41+00:00",
        "months": {"2020-09": 5, "2020-10": 2},
    }
    users = card["users"]
    assert (users["users"], users["sessions"]) == (3, 4)
    assert users["sequence_lengths"] == [
        {"from": 1, "to": 1, "users": 1},
        {"from": 2, "to": 2, "users": 1},
        {"from": 3, "to": 4, "users": 1},
    ]
    assert users["events_per_user"] == pytest.approx(7 / 3)
    quantiles = {"0.0": 1, "0.25": 1, "0.5": 2, "0.75": 4, "0.9": 4, "0.99": 4, "1.0": 4}
    assert users["events_per_user_quantiles"] == quantiles
    assert users["heaviest"][0] == {"user_id": "u1", "events": 4, "share": 4 / 7}
    assert users["top_percent_share"] == 4 / 7
    assert card["tie_share"] == 2 / 7
    items = card["items"]
    assert (items["items"], items["without_events"]) == (4, 2)
    assert items["most_frequent"] == [
        {"item_id": "i1", "events": 4},
        {"item_id": "i3", "events": 1},
    ]
    # Sorted 0 0 1 4: 2 * (3 * 1 + 4 * 4) / (4 * 5) - 5 / 4
    assert items["gini"] == pytest.approx(0.65)
    assert card["languages"] == {
        "titles": {"en": 2, "other": 1, "zh": 1},
        "queries": {"en": 1, "zh": 1},
    }
    near = card["near_duplicates"]
    assert (near["groups"], near["items"], near["largest"]) == (1, 2, 2)
    assert [item["item_id"] for item in near["examples"][0]] == ["i1", "i2"]
    codes = [warning["code"] for warning in card["warnings"]]
    assert codes == ["ties", "quarantined", "near_duplicates"]


def test_card_does_not_depend_on_the_partitions(tmp_path: Path) -> None:
    cards = [
        read_card(run(tmp_path / str(number), LINES, num_partitions=number)) for number in (1, 2, 5)
    ]
    assert cards[0] == cards[1] == cards[2]


def test_user_with_a_tenth_of_all_events_is_named_and_breaks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"u{n},i1,view,{T + n}," for n in range(900)]
    lines += [f"robot,i{1 + n % 4},view,{T + n * 3600}," for n in range(100)]
    prepared = run(tmp_path, lines)
    counts = prepared.events.counts
    assert (counts["kept"], counts["quarantined"]) == (1000, {})
    warning = {"code": "heavy_user", "user_id": "robot", "share": 0.1}
    assert warning in prepared.events.manifest["details"]["warnings"]
    assert "user robot has 10.0 % of all events" in caplog.text


def test_days_above_the_limit_are_reported(tmp_path: Path) -> None:
    # 150 views in one day from midnight: 2020-09-14T00:00Z is 1600041600.
    lines = [f"robot,i1,view,{1_600_041_600 + n}," for n in range(150)] + [f"u,i1,view,{T},"]
    settings = {"max_events_per_day": 100, "bots": "report"}
    card = read_card(run(tmp_path, lines, **settings))
    assert {"code": "bot_days", "number": 1} in card["warnings"]
    assert card["rows"]["kept"] == 151


def test_statistics_of_parts_add_up_to_those_of_the_whole(shop: Shop) -> None:
    events = shop.events.rename({"timestamp": "timestamp_ms"}).sort("user_id", "timestamp_ms")
    is_first = pl.col("user_id") < "u000150"
    halves = [events.filter(is_first), events.filter(~is_first)]
    whole = log_statistics(events)
    assert min(half.height for half in halves) > 1000
    assert add_statistics(map(log_statistics, halves)) == add_statistics([whole])
    assert add_statistics([]) == LogStatistics(heaviest_users=[])
    assert whole.users == 300
    assert sum(users * length for length, users in whole.lengths.items()) == events.height


def test_near_duplicates_are_those_above_the_threshold() -> None:
    # 4-grams of 16 letters: 13. One letter changed at the end: 12 of 14 in common (0.857).
    # Two letters changed, one at each end: 11 of 15 (0.733).
    texts = ["abcdefghijklmnop", "abcdefghijklmnoX", "YbcdefghijklmnoX", "zzzz", "", ""]
    frame = pl.DataFrame({"item_id": [f"i{n}" for n in range(6)], "title": texts, "text": [""] * 6})
    assert find_near_duplicates(frame).groups == [["i0", "i1"]]
    again = find_near_duplicates(frame.reverse())
    assert again.groups == [["i0", "i1"]]


def test_equal_texts_are_one_group_largest_first() -> None:
    titles = ["tea", "cup", "TEA", "t e a", "cup "]
    frame = pl.DataFrame(
        {"item_id": [f"i{n}" for n in range(5)], "title": titles, "text": [""] * 5}
    )
    found = find_near_duplicates(frame)
    assert found.groups == [["i0", "i2", "i3"], ["i1", "i4"]]
    assert found.num_items == 5


def test_search_that_would_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Titles after one template are candidates of each other, all of them."""
    titles = [f"thing number {n} of kind {n % 7}" for n in range(300)]
    frame = pl.DataFrame({"item_id": titles, "title": titles, "text": [""] * 300})
    assert find_near_duplicates(frame).is_searched
    monkeypatch.setattr("rec.data.near_duplicates.MAX_COMPARISONS", 50)
    found = find_near_duplicates(frame)
    assert (found.is_searched, found.groups) == (False, [])


def test_near_duplicates_are_only_reported(tmp_path: Path) -> None:
    prepared = run(tmp_path, LINES)
    assert prepared.catalog.counts["kept"] == 4


@pytest.mark.parametrize("language", ["en", "zh"])
def test_page_is_whole_and_says_it_in_its_language(
    tmp_path: Path, language: Literal["en", "zh"]
) -> None:
    prepared = run(tmp_path, LINES)
    page = Page(render_card(read_card(prepared), language=language))
    written = prepared.events.path / {"en": "data_card.html", "zh": "data_card.zh.html"}[language]
    assert written.read_text(encoding="utf-8") == render_card(
        read_card(prepared), language=language
    )
    assert {"en": "Event types", "zh": "事件类型"}[language] in page.text
    assert "unknown_item" in page.text
    assert "script" not in page.tags
    assert not [value for name, value in page.attributes if name in ("src", "href")]


def test_page_escapes_what_comes_from_the_log(tmp_path: Path) -> None:
    lines = [f'"{ATTACK.replace(chr(34), chr(39))}",i1,"<img src=x>",{T},', f"u,<b>,view,{T},"]
    card = read_card(run(tmp_path, lines))
    page = Page(render_card(card))
    assert not {"script", "img", "b"} & set(page.tags)
    assert "<img src=x>" in page.text
