"""B12: the exact nearest 100 items, ours beside faiss Flat, faiss HNSW and usearch.

    python -m tests.benchmarks.retrieval --items 10000 100000 1000000

Every side has one thread, the same normalised vectors and the same queries (items with noise, as
users are). Recall is against a search in float64. Also: what a filter that leaves 0.1 % of the
catalog costs ours, beside the search without it. A batch is read ``--rounds`` times A/B/A/B; the
figures are medians, ratios of them and their range over rounds, wall and CPU seconds. Peers: the
extra ``bench``; one that is not there is left out and named, and so is building a graph above
``--most-built`` items.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rec.ranking.retrieval.index import ExactIndex
from rec.ranking.retrieval.index_building import recall_of
from tests.benchmarks.fair import Reading, in_turns, machine, medians, ratios

WIDTH, K = 128, 100
PEERS = ("faiss", "usearch")
NOTHING = torch.zeros((2, 0), dtype=torch.int64)
LEAST_S = 0.2
"""A reading repeats its batch until it has taken this long: clocks are coarse."""
Search = Callable[[Tensor], Tensor]
"""Queries -> 1-based items, int64 ``(B, 100)``."""


def make_vectors(num_items: int, num_queries: int) -> tuple[Tensor, Tensor]:
    """Return items in a thousand clusters, and queries near some of them."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, WIDTH, generator=random)
    picks = torch.randint(1000, (num_items,), generator=random)
    items = normalize(centres[picks] + torch.randn(num_items, WIDTH, generator=random), dim=1)
    near = items[torch.randint(num_items, (num_queries,), generator=random)]
    noise = torch.randn(num_queries, WIDTH, generator=random) / WIDTH**0.5
    return items, normalize(near + 0.5 * noise, dim=1)


def truth(items: Tensor, queries: Tensor) -> Tensor:
    """Return the best items in float64, a block of the catalog at a time."""
    values, places = torch.zeros((len(queries), 0)).double(), torch.zeros((len(queries), 0)).long()
    for start in range(0, len(items), 100_000):
        scores = queries.double() @ items[start : start + 100_000].double().T
        best, found = scores.topk(min(K, scores.shape[1]), dim=1)
        values, order = torch.cat([values, best], dim=1).topk(K, dim=1)
        places = torch.cat([places, found + start], dim=1).gather(1, order)
    return places + 1


def make_sides(items: Tensor, *, most_built: int) -> dict[str, Search]:
    """Return every side that is installed, ours first."""
    index = ExactIndex(items)
    sides: dict[str, Search] = {
        "nextray": lambda users: index.search(users, k=K, excluded=NOTHING)[0]
    }
    table = np.ascontiguousarray(items.numpy())
    if find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(1)
        flat = faiss.IndexFlatIP(WIDTH)
        flat.add(table)
        sides["faiss_flat"] = lambda users: torch.from_numpy(flat.search(users.numpy(), K)[1] + 1)
        if len(items) <= most_built:
            graph = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
            graph.add(table)
            graph.hnsw.efSearch = 256
            sides["faiss_hnsw"] = lambda users: torch.from_numpy(
                graph.search(users.numpy(), K)[1] + 1
            )
    if find_spec("usearch") is not None and len(items) <= most_built:
        from usearch.index import Index

        peer = Index(ndim=WIDTH, metric="ip", dtype="f32", connectivity=32, expansion_search=256)
        peer.add(np.arange(len(items)), table, threads=1)

        def usearch(users: Tensor) -> Tensor:
            keys = np.atleast_2d(peer.search(users.numpy(), K, threads=1).keys)
            return torch.from_numpy(keys.astype(np.int64) + 1)

        sides["usearch"] = usearch
    return sides


def timed(search: Search, queries: Tensor, batch: int) -> Callable[[], Reading]:
    """Return what takes one reading: seconds of one batch."""

    def read() -> Reading:
        number, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < LEAST_S:
            start = number * batch % (len(queries) - batch + 1)
            search(queries[start : start + batch])
            number += 1
        return {
            "wall_s": (time.perf_counter() - wall) / number,
            "cpu_s": (time.process_time() - cpu) / number,
        }

    return read


def compare(num_items: int, *, rounds: int, most_built: int) -> list[dict[str, Any]]:
    items, queries = make_vectors(num_items, 256)
    exact = truth(items, queries[:64])
    sides = make_sides(items, most_built=most_built)
    recalls = {
        name: round(recall_of(search(queries[:64]), exact), 4) for name, search in sides.items()
    }
    few = torch.zeros(num_items, dtype=torch.bool)
    few[
        torch.randperm(num_items, generator=torch.Generator().manual_seed(1))[: num_items // 1000]
    ] = True
    index = ExactIndex(items)

    def filtered(users: Tensor) -> Tensor:
        return index.search(users, k=K, excluded=NOTHING, allowed=few)[0]

    assert (filtered(queries[:2]) > 0).sum(dim=1).tolist() == [min(K, num_items // 1000)] * 2
    rows = []
    for batch in (1, 8, 64):
        readings = in_turns(
            {name: timed(search, queries, batch) for name, search in sides.items()}
            | {"filter of 0.1 %": timed(filtered, queries, batch)},
            rounds=rounds,
        )
        row: dict[str, Any] = {"items": num_items, "batch": batch, "recall": recalls}
        row["per_query_ms"] = {
            name: {clock: round(1e3 * value / batch, 4) for clock, value in exactly(taken).items()}
            for name, taken in readings.items()
        }
        row["ours_times_faster"] = {
            name: ratios(readings["nextray"], taken)
            for name, taken in readings.items()
            if name != "nextray"
        }
        rows.append(row)
    return rows


def exactly(taken: list[Reading]) -> dict[str, float]:
    """Return medians that are not rounded to a tenth of a millisecond."""
    return {clock: float(np.median([row[clock] for row in taken])) for clock in medians(taken)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--most-built", type=int, default=1_000_000)
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    packages = [name for name in PEERS if find_spec(name) is not None]
    versions = ["faiss-cpu" if name == "faiss" else name for name in packages]
    rows = []
    for number in arguments.items:
        rows += compare(number, rounds=arguments.rounds, most_built=arguments.most_built)
        missing = [name for name in PEERS if name not in packages]
        figures = {"machine": machine(*versions), "missing_peers": missing, "rows": rows}
        arguments.figures.mkdir(parents=True, exist_ok=True)
        path = arguments.figures / "retrieval.json"
        path.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print(json.dumps(figures, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
