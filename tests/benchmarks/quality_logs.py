"""Stand-in logs: one made-up log for each shape that a shop may bring, for trying out quality.

No log of this file is real, and a win here is no proof; what they are for is to show what breaks,
what is slow, and where one simple source beats the whole. Every log has items without any event,
and signals of several kinds at once: tastes, what follows what, popularity that moves, repeats.

    python -m tests.benchmarks.quality_logs sparse_shop FOLDER [--scale 0.1]

Shapes: U users, V items, G groups of items.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

DAY_MS = 24 * 3600 * 1000
START_MS = 1_735_689_600_000
"""2025-01-01 in UTC."""
EVENTLESS_SHARE = 0.15
"""Items that no event names: only their text can find them."""
_SYLLABLES = ("ka", "lo", "mi", "ren", "ta", "vo", "sel", "dur", "nik", "pa", "zor", "fe", "lum")
_HAN = "山水风火云雷金木星月海河城市球赛股票电影音乐医疗教育科技汽车房价天气旅行美食"


@dataclass(frozen=True, kw_only=True, slots=True)
class StandIn:
    """Hold a log in the data contract's columns."""

    events: pl.DataFrame
    items: pl.DataFrame
    eventless: frozenset[str]
    """Ids that no event names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _World:
    """Hold what a log is drawn from; groups and links are hidden from the recommender.

    Attributes:
        group: int64 ``(V,)``.
        members: the items of each group that can have events, most popular first.
        next_item: int64 ``(V, 4)``, what goes well after an item.
        next_group: int64 ``(G,)``.
        born: float64 ``(V,)`` in 0..1 of the log's time.
    """

    group: NDArray[np.int64]
    members: list[NDArray[np.int64]]
    next_item: NDArray[np.int64]
    next_group: NDArray[np.int64]
    born: NDArray[np.float64]


def sparse_shop(
    *, scale: float = 1.0, seed: int = 0, eventless_share: float = EVENTLESS_SHARE
) -> StandIn:
    """Return a shop of 50 k users, 17 k items and 400 k events: six or so a user, few repeats."""
    rng = np.random.default_rng(seed)
    num_users, num_items = round(50_000 * scale), round(17_000 * scale)
    world, eventless = _world(
        rng,
        num_items=num_items,
        num_groups=max(8, round(400 * scale**0.5)),
        eventless_share=eventless_share,
    )
    lengths = np.clip(rng.geometric(1 / 8, size=num_users), 2, 200)
    times = rng.random(num_users)
    tastes = rng.integers(len(world.members), size=(num_users, 3))
    users, items, when = [], [], []
    last = np.full(num_users, -1)
    for step in range(int(lengths.max())):
        rows = np.flatnonzero((lengths > step) & (times < 1))
        kind = rng.random(len(rows))
        group = tastes[rows, rng.integers(3, size=len(rows))]
        wanders = kind > 0.85
        group[wanders] = rng.integers(len(world.members), size=int(wanders.sum()))
        item = _popular(world, group, rng)
        linked = (last[rows] >= 0) & (kind < 0.35)
        item[linked] = world.next_item[last[rows][linked], rng.integers(4, size=int(linked.sum()))]
        same = (last[rows] >= 0) & (kind > 0.95)
        item[same] = last[rows][same]
        users.append(rows)
        items.append(item)
        when.append(times[rows])
        last[rows] = item
        times[rows] += rng.exponential(0.02, size=len(rows))
    return _stand_in(
        np.concatenate(users),
        np.concatenate(items),
        START_MS + (np.concatenate(when) * 180 * DAY_MS).astype(np.int64),
        world=world,
        eventless=eventless,
        rng=rng,
        name=_latin,
    )


def news(*, scale: float = 1.0, seed: int = 1, eventless_share: float = EVENTLESS_SHARE) -> StandIn:
    """Return a Chinese news site: items live for days, and the last click says most."""
    rng = np.random.default_rng(seed)
    num_users, num_items = round(8_000 * scale), round(4_000 * scale)
    world, eventless = _world(
        rng,
        num_items=num_items,
        num_groups=max(6, round(60 * scale**0.5)),
        eventless_share=eventless_share,
    )
    users, items, when = [], [], []
    for user in range(num_users):
        length = min(60, 2 + rng.geometric(1 / 12))
        time, last = rng.random() * 0.95, -1
        for _ in range(length):
            if time >= 1:
                break
            stays = last >= 0 and rng.random() < 0.6
            group = world.group[last] if stays else rng.integers(len(world.members))
            pool = world.members[group]
            age = time - world.born[pool]
            weight = np.where(age >= 0, np.exp(-age / 0.05), 0) + 1e-9
            last = int(rng.choice(pool, p=weight / weight.sum()))
            users.append(user)
            items.append(last)
            when.append(time)
            time += rng.exponential(0.004)
    return _stand_in(
        np.asarray(users),
        np.asarray(items),
        START_MS + (np.asarray(when) * 30 * DAY_MS).astype(np.int64),
        world=world,
        eventless=eventless,
        rng=rng,
        name=_chinese,
    )


def wholesale(*, scale: float = 1.0, seed: int = 2) -> StandIn:
    """Return a wholesaler: baskets of a day's resolution, two lines of three bought before."""
    rng = np.random.default_rng(seed)
    num_users, num_items = round(900 * scale**0.5), round(3_500 * scale**0.5)
    world, eventless = _world(rng, num_items=num_items, num_groups=40)
    users, items, days = [], [], []
    for user in range(num_users):
        known: list[int] = []
        tastes = rng.integers(len(world.members), size=5)
        day = float(rng.integers(0, 60))
        pace = 4 + rng.exponential(20)
        while day < 365:
            for _ in range(2 + rng.geometric(1 / 10)):
                if known and rng.random() < 0.65:
                    # Habits: what was had often and lately comes again.
                    item = known[-1 - min(len(known) - 1, rng.geometric(1 / 40) - 1)]
                elif known and rng.random() < 0.3:
                    item = int(world.next_item[known[-1], rng.integers(4)])
                else:
                    item = int(_popular(world, rng.choice(tastes, size=1), rng)[0])
                known.append(item)
                users.append(user)
                items.append(item)
                days.append(int(day))
            day += 1 + rng.exponential(pace)
    return _stand_in(
        np.asarray(users),
        np.asarray(items),
        START_MS + np.asarray(days) * DAY_MS,
        world=world,
        eventless=eventless,
        rng=rng,
        name=_latin,
    )


def order_only(*, scale: float = 1.0, seed: int = 3) -> StandIn:
    """Return a log whose timestamps only count each user's events: 1, 2, 3 ..."""
    made = sparse_shop(scale=0.15 * scale, seed=seed)
    by_user = made.events.sort("user_id", "timestamp", maintain_order=True)
    count = pl.int_range(1, pl.len() + 1).over("user_id").alias("timestamp")
    return StandIn(events=by_user.with_columns(count), items=made.items, eventless=made.eventless)


def order_of_log(*, scale: float = 1.0, seed: int = 3) -> StandIn:
    """Return a log whose timestamps only count its lines: 1, 2, 3 ..."""
    made = sparse_shop(scale=0.15 * scale, seed=seed)
    lines = made.events.sort("timestamp", maintain_order=True)
    count = pl.int_range(1, pl.len() + 1).alias("timestamp")
    return StandIn(events=lines.with_columns(count), items=made.items, eventless=made.eventless)


def one_category(*, scale: float = 1.0, seed: int = 4) -> StandIn:
    """Return a shop all of whose items name the same category."""
    made = sparse_shop(scale=0.1 * scale, seed=seed)
    items = made.items.with_columns(pl.lit("things").alias("category"))
    return StandIn(events=made.events, items=items, eventless=made.eventless)


def no_category(*, scale: float = 1.0, seed: int = 5) -> StandIn:
    """Return a shop of which only ids and titles are known."""
    made = sparse_shop(scale=0.1 * scale, seed=seed)
    return StandIn(
        events=made.events, items=made.items.select("item_id", "title"), eventless=made.eventless
    )


def one_day(*, scale: float = 1.0, seed: int = 6) -> StandIn:
    """Return a tiny log of one day, each user's events tied in one or two moments."""
    made = sparse_shop(scale=0.01 * scale, seed=seed)
    half_day = (pl.col("timestamp") % 2) * (DAY_MS // 2) + START_MS
    return StandIn(
        events=made.events.with_columns(half_day.alias("timestamp")).sort("timestamp"),
        items=made.items,
        eventless=made.eventless,
    )


LOGS: Mapping[str, Callable[..., StandIn]] = {
    "sparse_shop": sparse_shop,
    "news": news,
    "wholesale": wholesale,
    "order_only": order_only,
    "order_of_log": order_of_log,
    "one_category": one_category,
    "no_category": no_category,
    "one_day": one_day,
}


def write_log(log: StandIn, folder: Path) -> tuple[Path, Path]:
    """Write the tables as Parquet and return the paths of events and items."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / "events.parquet", folder / "items.parquet")
    log.events.write_parquet(paths[0])
    log.items.write_parquet(paths[1])
    return paths


def _world(
    rng: np.random.Generator,
    *,
    num_items: int,
    num_groups: int,
    eventless_share: float = EVENTLESS_SHARE,
) -> tuple[_World, NDArray[np.int64]]:
    """Return groups, links and births of items, and the items that get no event."""
    group = rng.integers(num_groups, size=num_items)
    eventless = np.sort(
        rng.choice(num_items, size=round(eventless_share * num_items), replace=False)
    )
    is_live = np.ones(num_items, dtype=np.bool_)
    is_live[eventless] = False
    live = np.flatnonzero(is_live)
    members = []
    for number in range(num_groups):
        mine = live[group[live] == number]
        members.append(rng.permutation(mine) if len(mine) else live[:1])
    next_group = rng.permutation(num_groups)
    next_item = np.zeros((num_items, 4), dtype=np.int64)
    for item in range(num_items):
        # Two of the own group, two of the one that goes with it.
        near, far = members[group[item]], members[next_group[group[item]]]
        next_item[item] = [*rng.choice(near, size=2), *rng.choice(far, size=2)]
    return (
        _World(
            group=group,
            members=members,
            next_item=next_item,
            next_group=next_group,
            born=rng.random(num_items),
        ),
        eventless,
    )


def _popular(
    world: _World, groups: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw an item of each group, the head of it most often (about Zipf)."""
    sizes = np.asarray([len(members) for members in world.members])[groups]
    place = (sizes ** rng.random(len(groups)) - 1).astype(np.int64)
    return np.asarray(
        [
            world.members[group][spot]
            for group, spot in zip(groups.tolist(), place.tolist(), strict=True)
        ],
        dtype=np.int64,
    )


def _stand_in(
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    times: NDArray[np.int64],
    *,
    world: _World,
    eventless: NDArray[np.int64],
    rng: np.random.Generator,
    name: Callable[[int, int, np.random.Generator], tuple[str, str]],
) -> StandIn:
    titles, categories = zip(
        *(name(item, int(group), rng) for item, group in enumerate(world.group)), strict=True
    )
    events = pl.DataFrame(
        {
            "user_id": pl.Series([f"u{user}" for user in users.tolist()]),
            "item_id": pl.Series([f"i{item}" for item in items.tolist()]),
            "event_type": pl.Series(["view"] * len(users)),
            "timestamp": times,
        }
    ).sort("timestamp", maintain_order=True)
    return StandIn(
        events=events,
        items=pl.DataFrame(
            {
                "item_id": [f"i{item}" for item in range(len(titles))],
                "title": titles,
                "category": categories,
            }
        ),
        eventless=frozenset(f"i{item}" for item in eventless.tolist()),
    )


def _latin(item: int, group: int, rng: np.random.Generator) -> tuple[str, str]:
    """Return a title that tells the group by two made-up words, and a coarse category."""
    words = np.random.default_rng(group).choice(_SYLLABLES, size=6)
    kind, brand = "".join(words[:3]), "".join(words[3:])
    own = "".join(rng.choice(_SYLLABLES, size=2))
    return f"{brand.title()} {kind} {own} {item % 97}", f"department {group % 17}"


def _chinese(item: int, group: int, rng: np.random.Generator) -> tuple[str, str]:
    words = np.random.default_rng(group).choice(list(_HAN), size=6)
    own = "".join(rng.choice(list(_HAN), size=4))
    return f"{''.join(words[:4])}：{own}第{item % 89}期", f"{''.join(words[4:])}频道"


def main() -> None:
    """Write one log."""
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("name", choices=sorted(LOGS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    write_log(LOGS[arguments.name](scale=arguments.scale), arguments.folder)


if __name__ == "__main__":
    main()
