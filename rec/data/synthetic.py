"""A synthetic shop in English and Chinese whose truth is known.

Items belong to *clusters* (a colour and a category: "red dress", "红色连衣裙"). A user walks from
cluster to cluster: with ``follow_probability`` to the one that a random cycle through all clusters
names next, otherwise to any. The order of a history therefore tells what comes next, and a
shuffled one does not. Inside a cluster every item is as likely as any other: popularity tells next
to nothing, and neither do segment, style, provider and price.

Shapes: U users, L events of each, V items, K clusters.
"""

from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.data.events import SEARCH
from rec.errors import ConfigError

CATEGORIES = (
    ("dress", "连衣裙"), ("coat", "大衣"), ("shirt", "衬衫"), ("skirt", "半身裙"),
    ("sweater", "毛衣"), ("scarf", "围巾"), ("sneakers", "运动鞋"), ("boots", "靴子"),
    ("handbag", "手提包"), ("backpack", "双肩包"), ("wallet", "钱包"), ("watch", "手表"),
    ("lamp", "台灯"), ("sofa", "沙发"), ("chair", "椅子"), ("desk", "书桌"),
    ("teapot", "茶壶"), ("kettle", "水壶"), ("umbrella", "雨伞"), ("suitcase", "行李箱"),
    ("headphones", "耳机"), ("keyboard", "键盘"), ("notebook", "笔记本"), ("bicycle", "自行车"),
)  # fmt: skip
COLOURS = (
    ("red", "红色"), ("blue", "蓝色"), ("green", "绿色"), ("black", "黑色"), ("white", "白色"),
    ("yellow", "黄色"), ("pink", "粉色"), ("grey", "灰色"), ("purple", "紫色"),
    ("brown", "棕色"), ("orange", "橙色"), ("silver", "银色"),
)  # fmt: skip
STYLES = (
    ("classic", "经典"), ("light", "轻便"), ("vintage", "复古"), ("minimalist", "简约"),
    ("outdoor", "户外"), ("everyday", "日常"), ("handmade", "手工"), ("compact", "迷你"),
    ("elegant", "优雅"), ("sturdy", "耐用"),
)  # fmt: skip
PROVIDERS = ("Lumen", "Harbor", "Maple", "Orchid", "Summit", "Willow", "Cobalt", "Juniper")
SEGMENTS = ("student", "family", "professional", "retired")
LANGUAGES = ("en", "zh")
EVENT_TYPE_SHARES = {"view": 0.7, "cart": 0.15, "purchase": 0.15}
DAY_MS = 24 * 3600 * 1000
SHORT_GAP_MS = (20_000, 600_000)
"""20 s to 10 min: events of one session stay below the usual session gap of 30 min."""
REST_MS = 2 * 3600 * 1000
"""Least time between two sessions: well above that gap."""
EVENTS_PER_SESSION = 5
NEWEST_SHARE = 0.1
"""Cold items appear in the newest tenth, which is what a temporal split at 0.9 tests on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShopConfig:
    """Say how large the shop is and how strong its signal."""

    num_users: int = 500
    """Users; each has exactly ``events_per_user`` events."""
    num_items: int = 480
    """Items, spread evenly over the clusters; more make the exact next item harder to hit."""
    events_per_user: int = 30
    """Events of each user, searches included."""
    num_clusters: int = 12
    """Colour-and-category pairs, 2 to 288. Fewer than ``events_per_user``: a history goes round
    the whole cycle, so that the set of its clusters tells nothing and only their order does."""
    share_chinese: float = 0.5
    """Share of items and of users in Chinese; a user meets items of the own language."""
    follow_probability: float = 0.8
    """Chance that the next cluster is the cycle's; raising it makes the next item easier."""
    cold_share: float = 0.15
    """Share of items without an event before the newest tenth of time, 0 to 0.5."""
    search_share: float = 0.1
    """Chance that a search for the next cluster stands before its item; never two in a row."""
    seed: int = 0
    """Fixes every random choice; items depend on neither the number of users nor of events."""
    start_ms: int = 1_736_121_600_000
    """The beginning of the first day, 2025-01-06 in UTC; cleaning refuses events of the future."""
    days: int = 60
    """Days that each user's events are spread over."""

    def __post_init__(self) -> None:
        limits = {
            "num_users": (1, inf),
            "num_clusters": (2, len(CATEGORIES) * len(COLOURS)),
            # Two a cluster, so that the colder half leaves one to meet.
            "num_items": (2 * self.num_clusters, inf),
            "events_per_user": (1, inf),
            "start_ms": (0, inf),
            # Half of the time stays free even if every event opens a session.
            "days": (max(1, 2 * self.events_per_user * REST_MS / DAY_MS), inf),
            "cold_share": (0, 0.5),
            **dict.fromkeys(("follow_probability", "search_share", "share_chinese"), (0, 1)),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                flag = name.replace("_", "-")
                raise ConfigError(f"--shop.{flag} must be in [{low}, {high}], got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """Hold the three tables of the data contract, and the truth behind them."""

    events: pl.DataFrame
    """``user_id, item_id, event_type, timestamp, value, query, session_id``, by time."""
    items: pl.DataFrame
    """``item_id, title, text, category, price, group, language``."""
    users: pl.DataFrame
    """``user_id, segment, language``."""
    item_cluster: dict[str, int]
    """The cluster of each item id, ``0 .. K - 1``."""
    next_cluster: NDArray[np.int64]
    """The cluster that follows each cluster, ``(K,)``: one cycle through all."""
    cold_item_ids: frozenset[str]
    """Items without an event before ``newest_from_ms``."""
    newest_from_ms: int
    """Where the newest slice begins: the newest tenth both of the days and of the events."""


def make_shop(config: ShopConfig) -> Shop:
    """Return a shop; an equal config gives equal frames."""
    item_rng, user_rng, walk_rng, event_rng = np.random.default_rng(config.seed).spawn(4)
    next_cluster = _cycle(config.num_clusters, item_rng)
    item_cluster = item_rng.permutation(config.num_items) % config.num_clusters  # (V,)
    item_language = _spread(config.share_chinese, item_cluster, item_rng).astype(np.int64)
    is_cold = _spread(config.cold_share, item_cluster, item_rng)
    items = _items(item_cluster, item_language, item_rng)
    users, user_language = _users(config, user_rng)
    walk = _walk(next_cluster, config, walk_rng)  # (U, L)
    is_search, is_break = _visits(config, event_rng)  # (U, L)
    # A search names the cluster of the item that follows it, so both stand at one step.
    step: NDArray[np.int64] = np.cumsum(~is_search, axis=1) - ~is_search
    cluster = np.take_along_axis(walk, step, axis=1).ravel()  # (U * L,)
    timestamp = _timestamps(is_break, config, event_rng).ravel()
    newest_from_ms = max(
        config.start_ms + int((1 - NEWEST_SHARE) * config.days * DAY_MS),
        # As a temporal split cuts; searches are no item events and move its cut.
        int(np.quantile(timestamp[~is_search.ravel()], 1 - NEWEST_SHARE, method="higher")),
    )
    user = np.repeat(np.arange(config.num_users), config.events_per_user)
    language = user_language[user]
    item = np.empty_like(user)
    is_newest = timestamp >= newest_from_ms
    for offered, chosen in ((~is_cold, ~is_newest), (np.ones_like(is_cold), is_newest)):
        item[chosen] = _draw_items(
            cluster[chosen], language[chosen], offered, item_cluster, item_language, event_rng
        )
    kinds = event_rng.choice(len(EVENT_TYPE_SHARES), len(user), p=list(EVENT_TYPE_SHARES.values()))
    searched, session = pl.lit(pl.Series(is_search.ravel())), np.cumsum(is_break, axis=1).ravel()
    queries = pl.Series([_query(k, i) for k in range(config.num_clusters) for i in (0, 1)])
    events = pl.DataFrame(
        {
            "user_id": users["user_id"].gather(user),
            "item_id": items["item_id"].gather(item),
            "event_type": pl.Series(list(EVENT_TYPE_SHARES)).gather(kinds),
            "timestamp": timestamp,
            "value": items["price"].gather(item),
            "query": queries.gather(2 * cluster + language),
        }
    ).with_columns(
        pl.when(~searched).then("item_id").alias("item_id"),
        pl.when(searched).then(pl.lit(SEARCH)).otherwise("event_type").alias("event_type"),
        pl.when((pl.col("event_type") == "purchase") & ~searched).then("value").alias("value"),
        pl.when(searched).then("query").alias("query"),
        pl.format("{}-{}", "user_id", pl.lit(pl.Series(session))).alias("session_id"),
    )
    return Shop(
        events=events.sort("timestamp", "user_id"),
        items=items,
        users=users,
        item_cluster=dict(zip(items["item_id"], item_cluster.tolist(), strict=True)),
        next_cluster=next_cluster,
        cold_item_ids=frozenset(items["item_id"].filter(pl.Series(is_cold))),
        newest_from_ms=newest_from_ms,
    )


def write_shop(shop: Shop, folder: Path) -> tuple[Path, Path, Path]:
    """Write the tables as Parquet and return the paths of events, items and users."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / "events.parquet", folder / "items.parquet", folder / "users.parquet")
    for frame, path in zip((shop.events, shop.items, shop.users), paths, strict=True):
        frame.write_parquet(path)
    return paths


def _cycle(num_clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the successor of each cluster in a random cycle through all, ``(K,)``."""
    order = rng.permutation(num_clusters)
    next_cluster = np.empty(num_clusters, dtype=np.int64)
    next_cluster[order] = np.roll(order, -1)
    return next_cluster


def _spread(share: float, groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mark a share of the members, as evenly over the groups as whole numbers allow."""
    order = np.lexsort((rng.random(len(groups)), groups))
    marks = np.zeros(len(groups), dtype=np.bool_)
    # The small addend keeps 0.1 * 480 from falling to 47.99.
    marks[order] = np.diff(np.floor(np.arange(len(groups) + 1) * share + 1e-9)) > 0
    return marks


def _users(config: ShopConfig, rng: np.random.Generator) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Return the users and the language code of each, ``(U,)``."""
    everyone = np.zeros(config.num_users, dtype=np.int64)
    language = _spread(config.share_chinese, everyone, rng).astype(np.int64)
    segments = rng.integers(len(SEGMENTS), size=config.num_users)
    users = {
        "user_id": _ids("u", config.num_users),
        "segment": pl.Series(SEGMENTS).gather(segments),
        "language": pl.Series(LANGUAGES).gather(language),
    }
    return pl.DataFrame(users), language


def _walk(
    next_cluster: NDArray[np.int64], config: ShopConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the cluster of each step, ``(U, L)``."""
    num_clusters = len(next_cluster)
    walk = np.empty((config.num_users, config.events_per_user), dtype=np.int64)
    walk[:, 0] = rng.integers(num_clusters, size=config.num_users)
    for column in range(1, config.events_per_user):
        follows = rng.random(config.num_users) < config.follow_probability
        jump = rng.integers(num_clusters, size=config.num_users)
        walk[:, column] = np.where(follows, next_cluster[walk[:, column - 1]], jump)
    return walk


def _visits(
    config: ShopConfig, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which events are searches and which open a session, both ``(U, L)``."""
    shape = (config.num_users, config.events_per_user)
    is_search = rng.random(shape) < config.search_share
    is_search[:, 1:] &= ~is_search[:, :-1]
    is_search[:, -1] = False
    is_break = rng.random(shape) < 1 / EVENTS_PER_SESSION
    is_break[:, 1:] &= ~is_search[:, :-1]
    is_break[:, 0] = True
    return is_search, is_break


def _timestamps(
    is_break: NDArray[np.bool_], config: ShopConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return strictly increasing times of each user, spread over all days, ``(U, L)``."""
    gaps = np.where(is_break, REST_MS, rng.integers(*SHORT_GAP_MS, size=is_break.shape))
    free = config.days * DAY_MS - gaps.sum(axis=1, keepdims=True)
    # One weight more than events: the time after the last session.
    weights = rng.exponential(size=(len(gaps), gaps.shape[1] + 1))
    weights[:, :-1] *= is_break
    rests = weights[:, :-1] / weights.sum(axis=1, keepdims=True) * free
    return config.start_ms + np.cumsum(gaps + rests.astype(np.int64), axis=1)


def _draw_items(
    cluster: NDArray[np.int64],
    language: NDArray[np.int64],
    offered: NDArray[np.bool_],
    item_cluster: NDArray[np.int64],
    item_language: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw an offered item of each cluster, in the language where there is one."""
    drawn = np.empty_like(cluster)
    for key in np.unique(2 * cluster + language):
        wanted, spoken = divmod(int(key), 2)
        pool = offered & (item_cluster == wanted)
        own = pool & (item_language == spoken)
        places = np.flatnonzero(2 * cluster + language == key)
        drawn[places] = rng.choice(np.flatnonzero(own if own.any() else pool), size=len(places))
    return drawn


def _items(
    item_cluster: NDArray[np.int64], item_language: NDArray[np.int64], rng: np.random.Generator
) -> pl.DataFrame:
    num_items = len(item_cluster)
    styles = rng.integers(len(STYLES), size=num_items)
    providers = rng.choice(PROVIDERS, size=num_items)
    # Log-normal around 20: most things are cheap, some are not.
    prices = np.round(20 * np.exp(rng.normal(size=num_items)), 2)
    numbers = np.stack([item_cluster, item_language, styles], axis=1).tolist()
    columns = ("item_id", "title", "text", "category", "price", "group", "language")
    rows = []
    for item_id, (cluster, language, style), provider, price in zip(
        _ids("i", num_items), numbers, providers.tolist(), prices.tolist(), strict=True
    ):
        name, manner = _query(cluster, language), STYLES[style][language]
        if LANGUAGES[language] == "zh":
            title, text = f"{manner}{name}", f"{provider}出品的{name}，{manner}风格。"
        else:
            title = f"{manner.capitalize()} {name}"
            text = f"{provider} makes this {name} in the {manner} style."
        category = _words(cluster)[1][language]
        rows.append((item_id, title, text, category, price, provider, LANGUAGES[language]))
    return pl.DataFrame(rows, schema=columns, orient="row")


def _words(cluster: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the colour and the category of a cluster, each in both languages."""
    row, column = divmod(cluster, len(CATEGORIES))
    # The column is added so that the first clusters differ in colour too.
    return COLOURS[(row + column) % len(COLOURS)], CATEGORIES[column]


def _query(cluster: int, language: int) -> str:
    colour, category = _words(cluster)
    return ("", " ")[LANGUAGES[language] == "en"].join((colour[language], category[language]))


def _ids(prefix: str, number: int) -> pl.Series:
    return pl.Series([f"{prefix}{index:06d}" for index in range(number)])
