"""The ranker: gradient-boosted trees over the candidates' features, calibrated to log-odds.

Two sets of trees, because they answer two questions: ``all`` orders everything, what the user has
had included; ``new`` only what they have not. Which one is asked depends on the request.

Shapes: C candidates, F features.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from rec.artifacts import write_json
from rec.errors import ArtifactError, ConfigError
from rec.ranking.columns import FEATURES, RANKED

RANKER_FILE = "ranker.json"
MODES = ("new", "all")
LEADS = (*RANKED, "popularity", "recent_popularity", "newest_popularity")
"""Single sources that trees must beat; one of them orders alone where they do not."""
LEAD_WEIGHT = 2.0
"""What the first place of the lead starts with: a few dozen trees can overturn it."""
POPULARITIES = ("popularity", "recent_popularity", "current_popularity", "newest_popularity")
"""Columns of which one may order for users without events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankerConfig:
    """Say how the second stage is trained."""

    enabled: bool = True
    """Rank with trees over all sources; off ranks by the sequence model's cosine alone."""
    window_share: float = 0.1
    """Newest share of the training events that the trees learn from, unseen by the towers."""
    moments_per_user: int = 20
    """Next events (or baskets) of one user in the window that are learnt from, at most."""
    max_moments: int = 20_000
    """Moments of all users whose candidates are looked at."""
    max_rows: int = 400_000
    """Candidates that the trees are fitted on; time grows with it."""
    min_moments: int = 50
    """Moments with a hit among the candidates below which there are no trees."""
    max_hidden_share: float = 0.3
    """Most items that a quarter of the moments know by text alone. It is the catalog's own share of
    items without events up to this; raising it can bring dead items into the lists."""
    max_cold_loss: float = 0.01
    """Share of NDCG that lists may lose, and of the gain by items with events, so that items
    without events are found by their text: such items start as high as this allows, measured where
    some are hidden. Raising it brings more of them into the lists. The bound is on the trees' own
    order: beside lists without such items, items with events lost 2.8 % on the stand-in shop
    (`python -m tests.benchmarks.cold_items --log shop --epochs 8`)."""
    num_folds: int = 2
    """Folds over users that calibrate the trees and compare them with what they read."""
    num_trees: int = 100
    """Trees of one set. Not stopped early: a window's NDCG is too noisy to stop by."""
    learning_rate: float = 0.05
    """Weight of one tree."""
    num_leaves: int = 8
    """Leaves of one tree; fewer on small logs."""
    min_leaf_rows: int = 100
    """Fewest candidates in a leaf."""
    seed: int = 7
    """Seed of moments, folds and trees."""

    def __post_init__(self) -> None:
        if not 0 < self.window_share < 1:
            raise ConfigError(f"--ranker.window-share must be in (0, 1), got {self.window_share}")
        if not 0 <= self.max_hidden_share < 1:
            raise ConfigError(
                f"--ranker.max-hidden-share must be in [0, 1), got {self.max_hidden_share}"
            )
        if not 0 <= self.max_cold_loss < 1:
            raise ConfigError(f"--ranker.max-cold-loss must be in [0, 1), got {self.max_cold_loss}")
        if self.num_folds < 2:
            raise ConfigError(f"--ranker.num-folds must be >= 2, got {self.num_folds}")
        if self.learning_rate <= 0:
            raise ConfigError(f"--ranker.learning-rate must be > 0, got {self.learning_rate}")
        if self.num_leaves < 2:
            raise ConfigError(f"--ranker.num-leaves must be >= 2, got {self.num_leaves}")
        for name in (
            "moments_per_user",
            "max_moments",
            "max_rows",
            "min_moments",
            "num_trees",
            "min_leaf_rows",
        ):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--ranker.{flag} must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ColdUsers:
    """Say what orders for users without events: the log share of one popularity window.

    Attributes:
        popularity: one of ``POPULARITIES``.
        intercept: log of how many items come next at once: shares of events add up to 1.
    """

    popularity: str
    intercept: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Trees:
    """Hold one set of trees and what turns its output into log-odds.

    Attributes:
        lead: the source that orders best alone; the trees start from its order.
        booster: what the trees add to it; absent where that made the order no better.
        weight: share of what they say that counts.
        cold_offset: what an item without events starts with beside that.
        slope: of the log-odds in that number.
        intercept: log-odds where it is 0.
        metrics: out-of-fold NDCG of the trees, of the cosine and of single sources.
        cold_users: what orders for users without events; the same as for others if absent.
    """

    lead: str
    booster: lightgbm.Booster | None
    weight: float
    cold_offset: float
    slope: float
    intercept: float
    metrics: Mapping[str, float]
    cold_users: ColdUsers | None = None

    def predict(self, features: NDArray[np.float32], *, num_threads: int) -> NDArray[np.float64]:
        """Return the number that orders one user's candidates, float64 ``(C,)``."""
        raw = LEAD_WEIGHT * follow_lead(features, self.lead)
        if self.booster is not None:
            added = np.asarray(self.booster.predict(features, num_threads=num_threads))
            raw += self.weight * added
        return raw + self.cold_offset * is_without_events(features)


def follow_lead(features: NDArray[np.float32], lead: str) -> NDArray[np.float64]:
    """Return one source's order, equals by recent popularity, float64 ``(C,)`` in 0..2.

    Args:
        features: float32 ``(C, F)``, columns ``FEATURES``.
        lead: one of ``LEADS``.
    """
    popular = features[:, FEATURES.index("popularity_rank")].astype(np.float64)
    if lead in RANKED:
        first = features[:, FEATURES.index(f"{lead}_rank")].astype(np.float64)
    else:
        # Log shares fall below 0: nearer to 0 is better.
        first = -features[:, FEATURES.index(lead)].astype(np.float64)
    order: NDArray[np.float64] = 1 / (1 + first) + 1e-4 / (1 + popular)
    return order


def follow_popularity(features: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return the log shares of one of ``POPULARITIES``, equals by that of all events, ``(C,)``.

    Args:
        features: float32 ``(C, F)``, columns ``FEATURES``.
        name: of the window.
    """
    shares: NDArray[np.float32] = (
        features[:, FEATURES.index(name)] + 1e-3 * features[:, FEATURES.index("popularity")]
    )
    return shares


def is_without_events(features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which candidates nobody has had, bool ``(C,)``."""
    is_cold: NDArray[np.bool_] = features[:, FEATURES.index("item_users")] == 0
    return is_cold


def is_of_cold_user(features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which candidates are of users without events, bool ``(C,)``.

    Who has searched and done nothing else has a cosine.
    """
    has_none: NDArray[np.bool_] = (features[:, FEATURES.index("history_length")] == 0) & (
        features[:, FEATURES.index("sequence")] == 0
    )
    return has_none


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranker:
    """Order candidates; a mode without trees is ordered by the sequence model alone."""

    trees: Mapping[str, Trees]

    def log_odds(
        self, features: NDArray[np.float32], *, mode: str, num_threads: int
    ) -> NDArray[np.float32]:
        """Return the log-odds that each candidate is among the user's next events, ``(C,)``.

        Args:
            features: float32 ``(C, F)``, columns ``FEATURES``.
            mode: ``new`` or ``all``.
            num_threads: threads of the prediction.
        """
        trees = self.trees[mode]
        if not len(features):
            return np.zeros(0, dtype=np.float32)
        raw = trees.predict(features, num_threads=num_threads)
        result: NDArray[np.float32] = (trees.slope * raw + trees.intercept).astype(np.float32)
        if trees.cold_users is not None:
            mine = is_of_cold_user(features)
            shares = follow_popularity(features[mine], trees.cold_users.popularity)
            expected = np.exp(shares + trees.cold_users.intercept)
            result[mine] = np.log(np.expm1(expected))  # odds of one or more (Poisson)
        return result


def save_ranker(ranker: Ranker, folder: Path) -> None:
    """Write the trees in the library's text format, and one JSON file beside them."""
    modes: dict[str, Any] = {}
    for mode, trees in ranker.trees.items():
        if trees.booster is not None:
            trees.booster.save_model(folder / _trees_file(mode))
        modes[mode] = {
            "lead": trees.lead,
            "has_trees": trees.booster is not None,
            "weight": trees.weight,
            "cold_offset": trees.cold_offset,
            "slope": trees.slope,
            "intercept": trees.intercept,
            "metrics": dict(trees.metrics),
            "cold_users": None if trees.cold_users is None else asdict(trees.cold_users),
        }
    write_json(folder / RANKER_FILE, {"features": list(FEATURES), "modes": modes})


def load_ranker(folder: Path) -> Ranker:
    """Return the ranker of a folder.

    Raises:
        ArtifactError: it was fitted on other features than this version computes.
    """
    values = json.loads((folder / RANKER_FILE).read_text(encoding="utf-8"))
    if tuple(values["features"]) != FEATURES:
        raise ArtifactError(
            f"the ranker in {folder} reads other features than this version makes: "
            "run jobs.train and jobs.index again"
        )
    return Ranker(
        trees={
            mode: Trees(
                booster=(
                    lightgbm.Booster(model_file=folder / _trees_file(mode))
                    if entry["has_trees"]
                    else None
                ),
                lead=entry["lead"],
                weight=entry["weight"],
                cold_offset=entry["cold_offset"],
                slope=entry["slope"],
                intercept=entry["intercept"],
                metrics=entry["metrics"],
                cold_users=_cold_users(entry.get("cold_users")),
            )
            for mode, entry in values["modes"].items()
        }
    )


def _cold_users(values: Mapping[str, Any] | None) -> ColdUsers | None:
    return None if values is None else ColdUsers(**values)


def _trees_file(mode: str) -> str:
    return f"ranker.{mode}.txt"
