"""Compare two releases: which is better, and how sure.

Both were measured on the same users; the difference is taken user by user. Without the same users
there is no pairing, and the comparison is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rec.errors import ArtifactError, DataError
from rec.evaluation.significance import Interval, paired_bootstrap

METRICS_FILE = "metrics.json"
USERS_FILE = "user_ndcg.parquet"
"""Each test user's NDCG by model, in the order of the test set; no ids."""
OURS = "nextray"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Hold the second release's NDCG against the first's.

    Attributes:
        better: name of the better release; ``None`` where the interval holds 0.
        ndcg: release -> mean NDCG.
        interval: of the second minus the first.
        num_users: users of both.
        k: places of a list.
    """

    better: str | None
    ndcg: Mapping[str, float]
    interval: Interval
    num_users: int
    k: int

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON's own types."""
        return asdict(self)


def compare_reports(first: Path, second: Path, *, seed: int = 7) -> Comparison:
    """Return which of two report (or release) folders holds the better model.

    Args:
        first: folder with ``metrics.json`` and ``user_ndcg.parquet``; its name is shown.
        second: another.
        seed: of the bootstrap.

    Raises:
        ArtifactError: a folder was not evaluated by this version.
        DataError: the two were measured on other users, or with lists of another length.
    """
    described = [_read(folder) for folder in (first, second)]
    (metrics, ours), (others_metrics, theirs) = described
    for name in ("test_set", "k", "protocol"):
        if metrics[name] != others_metrics[name]:
            raise DataError(
                f"{first.name} and {second.name} differ in {name} ({metrics[name]} and "
                f"{others_metrics[name]}): evaluate both on the same log, cut and k"
            )
    interval = paired_bootstrap(theirs, ours, seed=seed)
    better = None
    if interval.is_significant:
        better = second.name if interval.difference > 0 else first.name
    return Comparison(
        better=better,
        ndcg={first.name: float(ours.mean()), second.name: float(theirs.mean())},
        interval=interval,
        num_users=len(ours),
        k=int(metrics["k"]),
    )


def _read(folder: Path) -> tuple[Mapping[str, Any], Any]:
    for name in (METRICS_FILE, USERS_FILE):
        if not (folder / name).is_file():
            raise ArtifactError(f"expected {name} in {folder}, found none: run jobs.evaluate again")
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    values = pl.read_parquet(folder / USERS_FILE)[OURS].to_numpy().astype(np.float64)
    return metrics, values
