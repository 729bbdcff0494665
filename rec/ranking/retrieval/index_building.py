"""Which index a catalog gets: exact, or a faiss structure that was measured against it.

Recall is measured when the structure is built, on users of the log; below the configured floor
nothing is indexed. faiss's own file format holds numbers and no code, and a release names its hash.

Shapes: V items, N users, D width, k places.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rec.errors import ConfigError
from rec.ranking.retrieval.approximate import ApproximateIndex
from rec.ranking.retrieval.index import ExactIndex

PACKAGE = "faiss"
_EFFORTS = (64, 128, 256, 512, 1024)
"""Items that a search in a graph keeps in sight; the first that reaches the floor is taken."""
_PROBES = (8, 16, 32, 64, 128, 256)
"""Cells that a search looks into."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """Say how the nearest items of a user are found."""

    kind: Literal["auto", "exact", "hnsw", "ivf"] = "auto"
    """``exact`` looks at every item. ``hnsw`` (a graph) and ``ivf`` (cells; smaller and quicker to
    build) look at few and need the extra ``faiss``. ``auto`` is exact below ``min_items``, a graph
    from there on."""
    min_items: int = 1_000_000
    """Catalog from which ``auto`` is approximate."""
    min_recall: float = 0.95
    """Share of the exact search's items that must be found, else nothing is indexed."""
    recall_k: int = 100
    """Places at which that is measured."""
    num_links: int = 32
    """Neighbours of an item in the graph: more find more, take more memory and time to build."""
    num_cells: int | None = None
    """Cells of ``ivf``; four times the root of the catalog if absent."""

    def __post_init__(self) -> None:
        if not 0 < self.min_recall <= 1:
            raise ConfigError(f"--index.min-recall must be in (0, 1], got {self.min_recall}")
        for name in ("min_items", "recall_k", "num_links"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--index.{flag} must be >= 1, got {getattr(self, name)}")
        if self.num_cells is not None and self.num_cells < 1:
            raise ConfigError(f"--index.num-cells must be >= 1, got {self.num_cells}")

    def kind_for(self, num_items: int) -> Literal["exact", "hnsw", "ivf"]:
        """Return what a catalog of a size gets.

        >>> IndexConfig().kind_for(50_000), IndexConfig().kind_for(2_000_000)
        ('exact', 'hnsw')
        """
        if self.kind != "auto":
            return self.kind
        return "hnsw" if num_items >= self.min_items else "exact"


def build_index(
    items: Tensor, users: Callable[[], Tensor], config: IndexConfig
) -> tuple[ApproximateIndex | None, Mapping[str, Any]]:
    """Return what finds a catalog's items, ``None`` for the exact search, and what was measured.

    Args:
        items: e_i, float32 ``(V, D)`` normalised.
        users: gives e_u of some users, float32 ``(N, D)``: whom recall is measured on.
        config: how.

    Raises:
        ConfigError: faiss is not installed, or no effort reaches the floor of recall.
    """
    kind = config.kind_for(len(items))
    if kind == "exact":
        return None, {"kind": "exact"}
    _check_installed(kind)
    faiss = import_module(PACKAGE)
    faiss.omp_set_num_threads(torch.get_num_threads())
    table = np.ascontiguousarray(items.numpy(), dtype=np.float32)
    width, metric = items.shape[1], faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        structure = faiss.IndexHNSWFlat(width, config.num_links, metric)
        efforts: tuple[int, ...] = _EFFORTS
    else:
        cells = config.num_cells or round(4 * len(items) ** 0.5)
        cells = max(1, min(cells, len(items) // 39 or 1))  # faiss wants 39 items to learn a cell
        structure = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, metric)
        structure.train(table)
        efforts = tuple(sorted({min(probes, cells) for probes in _PROBES}))
    structure.add(table)
    nothing = torch.zeros((2, 0), dtype=torch.int64)
    k = min(config.recall_k, len(items))
    asked = users()
    exact, _ = ExactIndex(items).search(asked, k=k, excluded=nothing)
    recall = 0.0
    for effort in efforts:
        index = ApproximateIndex(structure, items, kind=kind, effort=effort)
        found, _ = index.search(asked, k=k, excluded=nothing)
        recall = recall_of(found, exact)
        if recall >= config.min_recall:
            return index, {
                "kind": kind, "effort": effort, f"recall@{k}": round(recall, 4),
                "users": len(asked),
            }  # fmt: skip
    raise ConfigError(
        f"--index.kind {kind} finds {recall:.3f} of the exact search's {k} items, "
        f"--index.min-recall asks for {config.min_recall}: raise --index.num-links, lower the "
        "floor, or take --index.kind exact"
    )


def recall_of(found: Tensor, exact: Tensor) -> float:
    """Return the share of the exact items that were found; 1 where there are none.

    >>> recall_of(torch.tensor([[1, 2, 0]]), torch.tensor([[2, 3, 0]]))
    0.5
    """
    hits = (exact.unsqueeze(2) == found.unsqueeze(1)).any(dim=2) & (exact > 0)
    return float(hits.sum() / (exact > 0).sum()) if bool((exact > 0).any()) else 1.0


def save_index(index: ApproximateIndex, path: Path) -> None:
    """Write the structure in faiss's own format, which holds numbers and no code."""
    import_module(PACKAGE).write_index(index.structure, str(path))


def load_index(
    path: Path, items: Tensor, *, kind: Literal["hnsw", "ivf"], effort: int
) -> ApproximateIndex:
    """Return a written structure over a release's items.

    Raises:
        ConfigError: faiss is not installed.
    """
    _check_installed(kind)
    faiss = import_module(PACKAGE)
    faiss.omp_set_num_threads(torch.get_num_threads())
    return ApproximateIndex(faiss.read_index(str(path)), items, kind=kind, effort=effort)


def _check_installed(kind: str) -> None:
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            f"--index.kind {kind}: package faiss-cpu is not installed: "
            "pip install 'nextray[faiss]', or take --index.kind exact"
        )
