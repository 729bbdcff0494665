"""Where whoever ranks is away: popular items, and still every rule of the release."""

from collections import Counter

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from rec.data.events import Event
from rec.ranking.lists.popular import PopularItems
from rec.ranking.release import RankingConfig
from rec.ranking.requests import Request

NAMES = [f"item/{n}" for n in range(12)]
CATEGORIES = {name: ["abc"[n % 3]] if n % 4 else [] for n, name in enumerate(NAMES)}
POPULAR = pl.DataFrame(
    {"item_id": NAMES, "title": NAMES, "cold_score": [1 - n / 12 for n in range(12)]}
)
some = st.lists(st.sampled_from([*NAMES, "no such item"]), max_size=4, unique=True)


@given(
    pinned=some,
    blocked=some,
    exclude=some,
    seen=some,
    gone=some,
    cap=st.none() | st.integers(1, 2),
    k=st.integers(1, 14),
    hides=st.none() | st.booleans(),
)
def test_every_rule_holds_and_a_short_list_says_why(
    pinned: list[str],
    blocked: list[str],
    exclude: list[str],
    seen: list[str],
    gone: list[str],
    cap: int | None,
    k: int,
    hides: bool | None,
) -> None:
    blocked = [name for name in blocked if name not in pinned]
    ranking = RankingConfig(pinned=tuple(pinned), blocked=tuple(blocked), category_cap=cap)
    popular = PopularItems(POPULAR, ranking=ranking, categories=CATEGORIES)
    history = tuple(
        Event(user_id="u", event_type="view", timestamp_ms=n, item_id=name)
        for n, name in enumerate(seen)
    )
    request = Request(history=history, k=k, exclude=frozenset(exclude), exclude_seen=hides)
    answer = popular.list_for(request, known=set(NAMES) - set(gone))
    found = [item.item_id for item in answer.items]
    stand = [name for name in pinned if name in NAMES and name not in {*exclude, *gone}]
    free = found[len(stand[:k]) :]
    assert found[: len(stand)] == stand[:k]
    assert len(found) == len(set(found)) <= k
    assert not {*blocked, *exclude, *gone} & set(found)
    assert hides is False or not set(seen) & set(free)
    assert free == sorted(free, key=NAMES.index)
    assert [item.position for item in answer.items] == list(range(1, len(found) + 1))
    assert [item.source for item in answer.items] == [
        "pinned" if name in stand else "popularity" for name in found
    ]
    if cap is not None:
        counts = Counter(name for item_id in found for name in CATEGORIES[item_id])
        pins = Counter(name for item_id in stand[:k] for name in CATEGORIES[item_id])
        assert all(n <= max(cap, pins[name]) for name, n in counts.items())
    assert (len(found) < k) == bool({"fewer_items", "category_cap"} & set(answer.degraded))
    left_out = len(stand) < len([name for name in pinned if name in NAMES])
    assert ("pinned_item_left_out" in answer.degraded) == left_out
    hidden = {*blocked, *exclude, *gone, *stand, *(() if hides is False else seen)}
    if cap is None:
        rest = [name for name in NAMES if name not in hidden]
        assert found == [*stand, *rest][:k]
