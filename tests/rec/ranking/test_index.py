"""Two passes give what one pass in float32 gives: always, not nearly always."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from rec.ranking.retrieval import index
from rec.ranking.retrieval.coarse import CoarseItems
from rec.ranking.retrieval.index import ExactIndex

NOTHING = torch.zeros((2, 0), dtype=torch.int64)


def make(num: int, width: int, *, seed: int, spread: float = 1.0) -> Tensor:
    """Return directions; a small spread puts them all into a narrow cone, as encoders do."""
    made = torch.randn(num, width, generator=torch.Generator().manual_seed(seed))
    return normalize(made * spread + (1 - spread) * torch.ones(width), dim=1)


def brute(
    items: Tensor, users: Tensor, *, k: int, excluded: Tensor, allowed: Tensor | None
) -> Tensor:
    scores = users.double() @ items.double().T
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    scores[excluded[0], excluded[1] - 1] = float("-inf")
    return scores.topk(min(k, len(items)), dim=1).values


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 40),
    spread=st.sampled_from([1.0, 0.3, 0.02]),
    mask=st.sampled_from(["none", "shared", "own", "few"]),
    copies=st.booleans(),
    strip=st.sampled_from([2, 4, 8]),
)
def test_two_passes_equal_brute_force(
    seed: int, k: int, spread: float, mask: str, copies: bool, strip: int
) -> None:
    num_items = 7_003
    items = make(num_items, 32, seed=seed, spread=spread)
    if copies:  # ties beyond any bound
        items[100:400] = items[100]
    users = make(5, 32, seed=seed + 1, spread=spread)
    random = torch.Generator().manual_seed(seed)
    shares = {"none": 1.0, "shared": 0.5, "own": 0.5, "few": 0.002}
    shape = (5, num_items) if mask == "own" else (num_items,)
    allowed = None if mask == "none" else torch.rand(shape, generator=random) < shares[mask]
    excluded = torch.stack(
        [torch.arange(50) % 5, torch.randperm(num_items, generator=random)[:50] + 1]
    )
    index = ExactIndex(items, two_passes=True)
    index._coarse = CoarseItems(items, strip=strip)
    found, scores = index.search(users, k=k, excluded=excluded, allowed=allowed)
    expected = brute(items, users, k=k, excluded=excluded, allowed=allowed)
    assert torch.allclose(scores.double(), expected, atol=1e-6)
    is_there = found > 0
    assert (is_there == expected.isfinite()).all()
    own = (users.unsqueeze(1) * items[(found - 1).clamp(min=0)]).sum(dim=2)
    assert torch.allclose(own[is_there], scores[is_there], atol=1e-6)
    for row in range(5):
        ids = found[row][is_there[row]]
        assert len(ids.unique()) == len(ids)
        assert not set(ids.tolist()) & set(excluded[1][excluded[0] == row].tolist())


@pytest.mark.parametrize("num_items", [(1 << 14) + 1, 1 << 16, (1 << 16) + 3, 140_000])
@pytest.mark.parametrize("is_masked", [False, True])
def test_parts_of_a_large_catalog_are_one(num_items: int, is_masked: bool) -> None:
    items, users = make(num_items, 16, seed=6), make(40, 16, seed=7)
    random = torch.Generator().manual_seed(8)
    allowed = torch.rand(num_items, generator=random) < 0.5 if is_masked else None
    # The best item of each user is left out, wherever it stands; the last one of all, too.
    excluded = torch.stack([torch.arange(40), (users @ items.T).argmax(dim=1) + 1])
    excluded = torch.cat([excluded, torch.tensor([[0], [num_items]])], dim=1)
    found, scores = ExactIndex(items, two_passes=True).search(
        users, k=20, excluded=excluded, allowed=allowed
    )
    expected = brute(items, users, k=20, excluded=excluded, allowed=allowed)
    assert torch.allclose(scores.double(), expected, atol=1e-6)
    own = (users.unsqueeze(1) * items[found - 1]).sum(dim=2)
    assert torch.allclose(own, scores, atol=1e-6)


@pytest.mark.parametrize("strip", [1, 2, 4, 8])
def test_peaks_bound_every_score_of_their_strips(strip: int) -> None:
    items, users = make(20_003, 16, seed=3, spread=0.2), make(3, 16, seed=4, spread=0.2)
    peaks = CoarseItems(items, strip=strip).find_peaks(users, pairs=NOTHING, mask=None)
    assert peaks.values.shape == (3, -(-20_003 // strip))
    bounds = torch.from_numpy(peaks.values * peaks.unit[:, None] + peaks.slack[:, None])
    scores = users.double() @ items.double().T
    strips = torch.nn.functional.pad(scores, (0, -len(items) % strip), value=-2.0)
    assert (strips.view(3, -1, strip).amax(dim=2) <= bounds).all()


def test_strips_whose_peaks_lie_within_the_rounding_are_looked_at() -> None:
    items = make(20_000, 16, seed=3, spread=0.001)
    users = make(3, 16, seed=4, spread=0.001)
    peaks = CoarseItems(items).find_peaks(users, pairs=NOTHING, mask=None)
    # All cosines lie within the rounding of each other: the first pass tells nothing.
    assert np.ptp(peaks.values, axis=1).max() <= (2 * peaks.slack / peaks.unit).max()
    _, scores = ExactIndex(items, two_passes=True).search(users, k=10, excluded=NOTHING)
    expected = brute(items, users, k=10, excluded=NOTHING, allowed=None)
    assert torch.allclose(scores.double(), expected, atol=1e-6)


def test_most_of_a_catalog_is_not_looked_at_again() -> None:
    items, users = make(50_000, 64, seed=1), make(40, 64, seed=2)
    peaks = CoarseItems(items).find_peaks(users, pairs=NOTHING, mask=None)
    last = brute(items, users, k=50, excluded=NOTHING, allowed=None)[:, -1].numpy()
    may_hold = peaks.values * peaks.unit[:, None] + peaks.slack[:, None] >= last[:, None]
    assert may_hold.mean() < 0.1


def test_strips_are_looked_at_later_where_the_leading_ones_promised_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index, "_MARGIN", 0.0)
    items, users = make(20_003, 16, seed=9), make(40, 16, seed=10)
    _, scores = ExactIndex(items, two_passes=True).search(users, k=20, excluded=NOTHING)
    expected = brute(items, users, k=20, excluded=NOTHING, allowed=None)
    assert torch.allclose(scores.double(), expected, atol=1e-6)


def test_equal_scores_come_in_the_order_of_the_catalog() -> None:
    items = make(5_000, 8, seed=5)
    items[[7, 70, 700, 4_999]] = items[7].clone()
    for two_passes in (True, False):
        index = ExactIndex(items, two_passes=two_passes)
        found, _ = index.search(items[7:8], k=3, excluded=torch.tensor([[0], [71]]))
        assert found.tolist() == [[8, 701, 5_000]]


@pytest.mark.parametrize("k", [1, 9, 10])
def test_small_catalog_and_k_above_it(k: int) -> None:
    items = make(9, 4, seed=0)
    found, scores = ExactIndex(items).search(items[:2], k=k, excluded=NOTHING)
    assert found.shape == scores.shape == (2, min(k, 9))
    assert found[:, 0].tolist() == [1, 2]
