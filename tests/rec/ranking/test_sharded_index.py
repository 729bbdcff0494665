"""An index in parts gives the one index's answer: masks, exclusions, live items, lost parts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rec.data.events import Event
from rec.ranking.feedback.item_changes import ItemChange
from rec.ranking.live_catalog import extend_files
from rec.ranking.recommender import Recommender
from rec.ranking.release import read_release_files
from rec.ranking.requests import Request
from rec.ranking.retrieval.index import ExactIndex
from rec.ranking.retrieval.sharding import (
    Found,
    PartQuery,
    ShardedIndex,
    noting_lost_parts,
    part_bounds,
    search_part,
)
from tests.releases import make_release

NUM_ITEMS, NUM_USERS, WIDTH = 500, 7, 16


def unit(*shape: int, seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


class Parts:
    """Answer for the parts of some items as they were, except for the lost ones."""

    def __init__(self, items: Tensor, num_parts: int) -> None:
        self.bounds = part_bounds(len(items), num_parts=num_parts)
        self._items = items.clone()
        self.lost: set[int] = set()

    def __call__(self, queries: Sequence[PartQuery]) -> list[Found | None]:
        return [
            None if number in self.lost else search_part(self._items[start:end], query)
            for number, ((start, end), query) in enumerate(zip(self.bounds, queries, strict=True))
        ]

    def index(self, items: Tensor) -> ShardedIndex:
        return ShardedIndex(items, bounds=self.bounds, ask=self)


def masks() -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    few = torch.zeros(NUM_ITEMS, dtype=torch.bool)
    few[[3, 4, 251, 499]] = True
    return {
        "all": None,
        "half": torch.rand(NUM_ITEMS, generator=generator) < 0.5,
        "few": few,
        "own": torch.rand((NUM_USERS, NUM_ITEMS), generator=generator) < 0.3,
        "none": torch.zeros(NUM_ITEMS, dtype=torch.bool),
    }


def assert_same(found: Found, expected: Found) -> None:
    assert torch.equal(found[0], expected[0])
    assert found[1].shape == expected[1].shape
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7])
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("k", [1, 10, NUM_ITEMS + 5])
def test_parts_give_the_answer_of_the_one_index(num_parts: int, mask: str, k: int) -> None:
    items, users = unit(NUM_ITEMS, WIDTH, seed=0), unit(NUM_USERS, WIDTH, seed=1)
    # The best item of every user, of whichever part, and some more.
    best = (users @ items.T).argmax(dim=1) + 1
    rows = torch.arange(NUM_USERS)
    excluded = torch.stack([rows.repeat(2), torch.cat([best, rows * 70 + 1])])
    allowed = masks()[mask]
    expected = ExactIndex(items, two_passes=False).search(
        users, k=k, excluded=excluded, allowed=allowed
    )
    parts = Parts(items, num_parts)
    for lost in ({}, {0}, set(range(num_parts))):
        parts.lost = set(lost)
        with noting_lost_parts() as noted:
            found = parts.index(items).search(users, k=k, excluded=excluded, allowed=allowed)
        assert_same(found, expected)
        assert noted == set(lost)


def test_what_moved_and_what_is_new_counts_as_it_is_now() -> None:
    old, users = unit(NUM_ITEMS, WIDTH, seed=0), unit(NUM_USERS, WIDTH, seed=1)
    moved = torch.tensor([7, 300])
    items = torch.cat([old, users[:2]])
    items[moved] = users[2:4]
    index = Parts(old, 3).index(old).with_items(items, moved=moved)
    excluded = torch.tensor([[0], [NUM_ITEMS + 1]])
    for allowed in (None, torch.arange(len(items)) % 3 != 0):
        expected = ExactIndex(items, two_passes=False).search(
            users, k=20, excluded=excluded, allowed=allowed
        )
        assert_same(index.search(users, k=20, excluded=excluded, allowed=allowed), expected)
    found, _ = index.search(users, k=1, excluded=excluded)
    assert found[1:4, 0].tolist() == [NUM_ITEMS + 2, 8, 301]


def test_recommender_over_parts_gives_the_same_lists(tmp_path: Path) -> None:
    files = read_release_files(make_release(tmp_path))
    parts = Parts(files.embeddings, 2)
    text = files.text[5].numpy()
    changes = [
        ItemChange(
            item_id=item_id,
            timestamp_ms=1,
            item={"title": "red dress", "category": ["dress"]},
            embedding=np.asarray(text, dtype=np.float32),
            fingerprint=files.fingerprint,
        )
        for item_id in ("item/40", "new")
    ]
    changes.append(ItemChange(item_id="item/3", timestamp_ms=2))
    spread = replace(files, shards=parts.index(files.embeddings))
    events = tuple(
        Event(user_id="", event_type="view", timestamp_ms=n, item_id=f"item/{n}") for n in (4, 9)
    )
    for change in ([], changes):
        one, many = (
            Recommender(extend_files(each, change, projection=None), release="r")
            for each in (files, spread)
        )
        requests = [
            Request(history=events, k=60),
            Request(history=events, k=5, filters={"category": ("dress", "coat")}),
            Request(history=events, k=5, exclude=frozenset({"item/5"}), exclude_seen=False),
            Request(k=5),
        ]
        for request in requests:
            [expected], [found] = one.recommend([request]), many.recommend([request])
            assert [item.item_id for item in found.items] == [
                item.item_id for item in expected.items
            ]
            assert [item.score for item in found.items] == pytest.approx(
                [item.score for item in expected.items], abs=1e-6
            )
            assert found.degraded == expected.degraded
        nearest = [each.similar("item/5", k=10).items for each in (one, many)]
        assert [item.item_id for item in nearest[0]] == [item.item_id for item in nearest[1]]
    assert "new" in {item.item_id for item in nearest[1]}
