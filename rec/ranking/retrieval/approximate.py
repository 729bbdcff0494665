"""Approximate retrieval for very large catalogs: a faiss structure behind the exact interface.

Masks hold inside the search. An item that came or changed since the structure was built stands
beside it and is searched exactly, a deleted one is masked: nothing is rebuilt. Whoever the
structure gives fewer items than there are is searched exactly, and so is everybody where a mask
leaves little, so that k results always come back.

Shapes: B users, V items, D width, k places.
"""

from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rec.ranking.retrieval.index import SMALL_SHARE, ExactIndex


class ApproximateIndex:
    """Search a faiss structure by inner product, and beside it what it does not know."""

    def __init__(
        self,
        structure: Any,
        items: Tensor,
        *,
        kind: Literal["hnsw", "ivf"],
        effort: int,
        moved: Tensor | None = None,
    ) -> None:
        """Hold what was built.

        Args:
            structure: a faiss index over the first rows of ``items``, in their order.
            items: e_i as they are now, float32 ``(V, D)`` normalised.
            kind: of the structure.
            effort: items kept in sight, or cells looked into.
            moved: int64, 0-based rows that the structure holds as they were before.
        """
        self.items = items
        self.kind = kind
        self.effort = effort
        self.structure = structure
        self._exact = ExactIndex(items, two_passes=False)
        old = torch.zeros(0, dtype=torch.int64) if moved is None else moved
        self._beside = torch.cat([old, torch.arange(structure.ntotal, len(items))])
        self._is_known = torch.ones(structure.ntotal, dtype=torch.bool)
        self._is_known[old] = False

    def with_items(self, items: Tensor, *, moved: Tensor) -> "ApproximateIndex":
        """Return the same structure under items that were appended (at the end) or have moved."""
        return ApproximateIndex(
            self.structure, items, kind=self.kind, effort=self.effort, moved=moved
        )

    def search(
        self, users: Tensor, *, k: int, excluded: Tensor, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return items and scores as :meth:`rec.ranking.retrieval.index.ExactIndex.search` does."""
        width = min(k, len(self.items))
        if allowed is not None and allowed.dim() == 2:
            rows = [
                self.search(users[[row]], k=k, excluded=_of_row(excluded, row), allowed=own)
                for row, own in enumerate(allowed)
            ]
            empty = torch.zeros((0, width))
            return (
                torch.cat([empty.long(), *(items for items, _ in rows)]),
                torch.cat([empty, *(scores for _, scores in rows)]),
            )
        num_allowed = len(self.items) if allowed is None else int(allowed.sum())
        if num_allowed * SMALL_SHARE <= len(self.items) or not width:
            return self._exact.search(users, k=k, excluded=excluded, allowed=allowed)
        found, scores = self._search_structure(
            users, width=width, excluded=excluded, allowed=allowed,
            share=num_allowed / len(self.items),
        )  # fmt: skip
        if len(self._beside):
            found, scores = self._add_beside(
                users, found, scores, width=width, excluded=excluded, allowed=allowed
            )
        wanted = min(width, num_allowed) - torch.bincount(excluded[0], minlength=len(users))
        short = ((found > 0).sum(dim=1) < wanted.clamp(min=0)).nonzero().squeeze(1)
        for row in short.tolist():
            items, values = self._exact.search(
                users[[row]], k=k, excluded=_of_row(excluded, row), allowed=allowed
            )
            found[row], scores[row] = items[0], values[0]
        return found, scores

    def _search_structure(
        self,
        users: Tensor,
        *,
        width: int,
        excluded: Tensor,
        allowed: Tensor | None,
        share: float,
    ) -> tuple[Tensor, Tensor]:
        """Return what the structure finds, ``(B, width)``; ``share`` of the catalog is allowed."""
        faiss = import_module("faiss")
        known = self._is_known
        if allowed is not None:
            known = known & allowed[: len(known)]
        mask = None
        if not bool(known.all()):
            bits = np.packbits(known.numpy(), bitorder="little")
            mask = faiss.IDSelectorBitmap(bits)
        found = np.full((len(users), width), -1, dtype=np.int64)
        scores = np.full((len(users), width), -np.inf, dtype=np.float32)
        has_own = torch.bincount(excluded[0], minlength=len(users)) > 0
        together = (~has_own).nonzero().squeeze(1).numpy()
        queries = np.ascontiguousarray(users.numpy(), dtype=np.float32)
        wide = max(self.effort, 2 * width) if self.kind == "hnsw" else self.effort
        effort = int(wide / share)  # what a mask hides is looked at all the same
        if len(together):
            scores[together], found[together] = self.structure.search(
                queries[together], width, params=self._parameters(faiss, mask, effort)
            )
        for row in has_own.nonzero().squeeze(1).tolist():
            ids = excluded[1][excluded[0] == row].numpy() - 1
            names = faiss.IDSelectorBatch(ids)
            others = faiss.IDSelectorNot(names)
            both = others if mask is None else faiss.IDSelectorAnd(mask, others)
            scores[row : row + 1], found[row : row + 1] = self.structure.search(
                queries[row : row + 1],
                width,
                params=self._parameters(faiss, both, effort + len(ids)),
            )
        scores[found < 0] = -np.inf
        return torch.from_numpy(found + 1), torch.from_numpy(scores)

    def _parameters(self, faiss: Any, selector: Any, effort: int) -> Any:
        options = {} if selector is None else {"sel": selector}
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=effort, **options)
        return faiss.SearchParametersIVF(nprobe=min(effort, self.structure.nlist), **options)

    def _add_beside(
        self,
        users: Tensor,
        found: Tensor,
        scores: Tensor,
        *,
        width: int,
        excluded: Tensor,
        allowed: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the best of what the structure found and of the few items beside it."""
        mask = torch.zeros(len(self.items), dtype=torch.bool)
        mask[self._beside] = True
        if allowed is not None:
            mask &= allowed
        more, values = self._exact.search_few(
            users, mask.nonzero().squeeze(1), width=width, excluded=excluded
        )
        best, order = torch.cat([scores, values], dim=1).topk(width, dim=1)
        return torch.cat([found, more], dim=1).gather(1, order), best


def _of_row(pairs: Tensor, row: int) -> Tensor:
    """Return one user's pairs, as those of a batch of one."""
    mine = pairs[1][pairs[0] == row]
    return torch.stack([torch.zeros_like(mine), mine])
