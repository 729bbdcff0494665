"""The data card: what a preparation found in a log, as one JSON object.

It is made of the partitions' statistics, so the log is never held at once. What deserves a look
is named in ``warnings``; nothing is changed by it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from rec.artifacts import Artifact
from rec.data.counts import CleaningCounts
from rec.data.log_statistics import TOP_USERS, LogStatistics, gini, weighted_quantiles
from rec.data.near_duplicates import find_near_duplicates
from rec.data.text import detect_languages

CARD_FILE = "data_card.json"
PAGE_FILES = {"en": "data_card.html", "zh": "data_card.zh.html"}
HEAVY_SHARE = 0.05
"""Share of all events above which one user is named in a warning."""
TIED_SHARE = 0.2
"""Share of events without a known order above which a sequence model has less to learn from."""
BAD_SHARE = 0.05
"""Share of quarantined rows that deserves a look."""
SAMPLES = 3
"""Quarantined rows shown for each reason."""
MAX_GROUPS, MAX_MEMBERS = 20, 5
"""Groups of near duplicates, and items of each, that are shown as examples."""
_SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def make_card(
    *,
    counts: CleaningCounts,
    statistics: LogStatistics,
    items: pl.DataFrame,
    samples: Mapping[str, Sequence[str]],
    bot_days: int,
    bots: Mapping[str, int],
    catalog: Artifact,
) -> dict[str, Any]:
    """Return the card.

    Args:
        counts: what became of the rows.
        statistics: of the clean events.
        items: ``item_id, events`` of the items that occur.
        samples: quarantined rows by reason.
        bot_days: days of one user above the limit of the plan.
        bots: events of the users who were set aside as a whole.
        catalog: the items; its details hold their languages and near duplicates.
    """
    card: dict[str, Any] = {
        "rows": {
            "rows_in": counts.rows_in,
            "kept": counts.kept,
            "duplicates": dict(counts.duplicates),
            "quarantined": dict(counts.quarantined),
        },
        "samples": {reason: list(rows) for reason, rows in sorted(samples.items())},
        "event_types": dict(statistics.event_types),
        "time": {
            "first": _iso(statistics.first_ms),
            "last": _iso(statistics.last_ms),
            "months": dict(statistics.months),
        },
        "users": {**_users(statistics, bot_days=bot_days), "bots": _heaviest_bots(bots)},
        "items": _items(items, num_items=catalog.counts["kept"]),
        "tie_share": statistics.tie_share,
        "languages": {
            "titles": dict(catalog.manifest["details"]["languages"]),
            "queries": dict(statistics.query_languages),
        },
        "near_duplicates": dict(catalog.manifest["details"]["near_duplicates"]),
    }
    return {**card, "warnings": _warnings(card, counts)}


def _users(statistics: LogStatistics, *, bot_days: int) -> dict[str, Any]:
    histogram: dict[int, int] = {}
    for length, users in sorted(statistics.lengths.items()):
        # 1, 2, 3 to 4, 5 to 8, 9 to 16: as wide as what is below.
        high = 1 << (length - 1).bit_length()
        histogram[high] = histogram.get(high, 0) + users
    quantiles = weighted_quantiles(statistics.lengths, _SHARES)
    return {
        "users": statistics.users,
        "sessions": statistics.sessions,
        "events_per_user": statistics.events / statistics.users,
        "events_per_user_quantiles": dict(zip(map(str, _SHARES), quantiles, strict=True)),
        "sequence_lengths": [
            {"from": high // 2 + 1, "to": high, "users": users} for high, users in histogram.items()
        ],
        "top_percent_share": _top_percent_share(statistics),
        "heaviest": [
            {"user_id": user_id, "events": events, "share": events / statistics.events}
            for user_id, events in statistics.heaviest_users
        ],
        "bot_days": bot_days,
    }


def _heaviest_bots(bots: Mapping[str, int]) -> list[dict[str, Any]]:
    heaviest = sorted(bots.items(), key=lambda bot: (-bot[1], bot[0]))
    return [{"user_id": user_id, "events": events} for user_id, events in heaviest[:TOP_USERS]]


def _top_percent_share(statistics: LogStatistics) -> float:
    """Return the share of all events that the heaviest hundredth of the users has."""
    left = -(-statistics.users // 100)  # rounded up: one user of fifty
    events = 0
    for length, users in sorted(statistics.lengths.items(), reverse=True):
        taken = min(users, left)
        events, left = events + taken * length, left - taken
    return events / statistics.events


def _items(items: pl.DataFrame, *, num_items: int) -> dict[str, Any]:
    counts = items["events"].to_list()
    without = num_items - items.height
    by_count = {0: without} if without else {}
    by_count |= dict(items["events"].value_counts().iter_rows())
    quantiles = weighted_quantiles(by_count, _SHARES)
    return {
        "items": num_items,
        "without_events": without,
        "events_per_item_quantiles": dict(zip(map(str, _SHARES), quantiles, strict=True)),
        "gini": gini([*counts, *([0] * without)]),
        "most_frequent": items.sort(["events", "item_id"], descending=[True, False])
        .head(10)
        .to_dicts(),
    }


def describe_items(items: pl.DataFrame) -> dict[str, Any]:
    """Return the card's facts that a catalog alone knows: title languages and near duplicates."""
    found = find_near_duplicates(items)
    languages = detect_languages(items["title"]).alias("language").value_counts()
    return {
        "languages": dict(languages.sort("language").iter_rows()),
        "near_duplicates": {
            "is_searched": found.is_searched,
            **_group_summary(items, found.groups),
        },
    }


def _group_summary(items: pl.DataFrame, groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return counts and examples of groups of items that say nearly the same."""
    shown = [group[:MAX_MEMBERS] for group in groups[:MAX_GROUPS]]
    wanted = [item_id for group in shown for item_id in group]
    known = items.filter(pl.col("item_id").is_in(wanted))
    titles = dict(known.select("item_id", "title").iter_rows())
    return {
        "groups": len(groups),
        "items": sum(map(len, groups)),
        "largest": max(map(len, groups), default=0),
        "examples": [
            [{"item_id": item_id, "title": titles[item_id]} for item_id in group] for group in shown
        ],
    }


def _warnings(card: Mapping[str, Any], counts: CleaningCounts) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"code": "heavy_user", "user_id": user["user_id"], "share": user["share"]}
        for user in card["users"]["heaviest"]
        if user["share"] > HEAVY_SHARE and card["users"]["users"] > 1 / HEAVY_SHARE
    ]
    found += [
        {"code": "bot_user", "user_id": bot["user_id"], "number": bot["events"]}
        for bot in card["users"]["bots"]
    ]
    if card["users"]["bot_days"]:
        found.append({"code": "bot_days", "number": card["users"]["bot_days"]})
    if card["tie_share"] > TIED_SHARE:
        found.append({"code": "ties", "share": card["tie_share"]})
    if counts.num_quarantined > BAD_SHARE * counts.rows_in:
        share = counts.num_quarantined / counts.rows_in
        found.append({"code": "quarantined", "share": share})
    if card["near_duplicates"]["items"]:
        found.append({"code": "near_duplicates", "number": card["near_duplicates"]["items"]})
    return found


def _iso(stamp_ms: int | None) -> str | None:
    if stamp_ms is None:
        return None
    return datetime.fromtimestamp(stamp_ms / 1000, tz=UTC).isoformat(timespec="seconds")
