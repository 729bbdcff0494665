"""Re-rank: what a list must be as a whole, which no score of a single item can say.

Diversity trades score against likeness to what stands above, by one of two greedy methods over the
item embeddings. The category cap and the business rules come after it and hold on every list.

Shapes: B users, P candidates of the pool, D width, k places.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Diversifier = Literal["mmr", "dpp"]
_SMALLEST = 1e-6
"""Floor of a residual variance: items that say nothing new are all equally bad."""


def diversify(
    scores: Tensor,
    embeddings: Tensor,
    *,
    num_places: int,
    diversity: Tensor,
    method: Diversifier = "mmr",
) -> Tensor:
    """Return the order of the pool: ``num_places`` picked one after the other, the rest behind.

    Each step takes the item with the largest ``(1 - d) * relevance + d * news``. Relevance is the
    score, from 0 for the pool's worst to 1 for its best. News of ``mmr`` is minus the largest
    cosine to an item already picked; of ``dpp`` the log of the squared length that the embedding
    has beyond the span of those picked (greedy maximum a posteriori of a determinantal point
    process). At ``d = 0`` the order is the scores', ties in the order given.

    Args:
        scores: float32 ``(B, P)``; ``-inf`` is no candidate and comes last.
        embeddings: float32 ``(B, P, D)``, normalised.
        num_places: steps of the greedy choice.
        diversity: float32 ``(B,)``, d in 0..1.
        method: ``mmr`` (maximal marginal relevance) or ``dpp``.

    Returns:
        int64 ``(B, P)``, a permutation in each row.

    Source: Carbonell and Goldstein 1998, The use of MMR; Chen, Zhang and Zhou 2018, Fast greedy MAP
    inference for determinantal point process.

    Items 1 and 2 are the same thing, item 3 is another: it moves up.

    >>> scores = torch.tensor([[1.0, 0.9, 0.5]])
    >>> embeddings = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    >>> half = torch.tensor([0.5])
    >>> diversify(scores, embeddings, num_places=3, diversity=half).tolist()
    [[0, 2, 1]]
    >>> diversify(scores, embeddings, num_places=3, diversity=0 * half, method="dpp").tolist()
    [[0, 1, 2]]
    """
    num_users, size = scores.shape
    steps = min(num_places, size)
    is_candidate = scores.isfinite()
    low = scores.masked_fill(~is_candidate, float("inf")).amin(dim=1, keepdim=True)
    high = scores.amax(dim=1, keepdim=True)
    relevance = (scores - low) / (high - low).clamp(min=1e-9)
    share = diversity.unsqueeze(1)
    free = is_candidate.clone()
    news = torch.zeros_like(scores)
    likeness = torch.full_like(scores, -1.0)
    residual = torch.ones_like(scores)  # squared length beyond the picked ones' span
    factors = torch.zeros((num_users, size, steps))
    rows = torch.arange(num_users)
    picked = torch.zeros((num_users, steps), dtype=torch.int64)
    for step in range(steps):
        gain = torch.where(free, (1 - share) * relevance + share * news, float("-inf"))
        best = gain.argmax(dim=1)
        # Whoever has no candidate left takes what is not free: it is sorted to the end below.
        picked[:, step] = best
        free[rows, best] = False
        cosines = torch.bmm(embeddings, embeddings[rows, best].unsqueeze(2)).squeeze(2)  # (B, P)
        if method == "mmr":
            likeness = torch.maximum(likeness, cosines)
            news = -likeness
        else:
            known = torch.bmm(factors, factors[rows, best].unsqueeze(2)).squeeze(2)
            length = residual[rows, best].clamp(min=_SMALLEST).sqrt().unsqueeze(1)
            column = (cosines - known) / length
            factors[:, :, step] = column
            residual = (residual - column.square()).clamp(min=_SMALLEST)
            news = residual.log()
    place = torch.full((num_users, size), size, dtype=torch.int64)
    for step in reversed(range(steps)):
        place[rows, picked[:, step]] = step
    place = torch.where(is_candidate, place, 2 * size)
    # The rest keeps the order it came in, which is the scores'.
    return place.argsort(dim=1, stable=True)


def cap_categories(
    order: NDArray[np.int64],
    categories: Sequence[Sequence[str]],
    *,
    k: int,
    cap: int,
    taken: Sequence[Sequence[str]] = (),
) -> list[int]:
    """Return the first k of an order that keep every category at ``cap`` places or fewer.

    An item of several categories takes a place of each; one without any is free. Fewer than k come
    back where the rest would break the cap.

    Args:
        order: candidates by preference.
        categories: of each candidate that ``order`` can name.
        k: places wanted.
        cap: most places of one category.
        taken: categories of items that stand already, such as pinned ones.

    >>> cap_categories(np.array([0, 1, 2]), [["tea"], ["tea"], ["cup", "gift"]], k=2, cap=1)
    [0, 2]
    """
    counts: dict[str, int] = {}
    for names in taken:
        for name in set(names):
            counts[name] = counts.get(name, 0) + 1
    kept: list[int] = []
    for candidate in order.tolist():
        if len(kept) == k:
            break
        own = set(categories[candidate])
        if any(counts.get(name, 0) >= cap for name in own):
            continue
        for name in own:
            counts[name] = counts.get(name, 0) + 1
        kept.append(candidate)
    return kept
