"""A release as files: everything that answering needs, and nothing about any user.

``items.parquet`` the catalog, ``popularity.parquet`` counts by item, ``embeddings.safetensors`` the
text embeddings (``text``, row 0 = padding), e_i (``items``) and the images that were fused, if any,
``model.safetensors`` the towers, ``release.json`` configuration: model, ranking, encoder,
fingerprint, event types. With a ranker,
``sources.safetensors`` what the candidate sources know, ``ranker.json`` and ``ranker.*.txt`` its
trees. Where users had attributes, ``segments.parquet`` what the users of each value prefer.
``items.faiss`` where the catalog is searched approximately.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rec.artifacts import write_json
from rec.errors import ArtifactError, ConfigError
from rec.models.image_fusion import ItemImages
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.ranking.lists.reranking import Diversifier
from rec.ranking.ranker import RANKER_FILE, Ranker, load_ranker, save_ranker
from rec.ranking.retrieval.approximate import ApproximateIndex
from rec.ranking.retrieval.index_building import load_index, save_index
from rec.ranking.retrieval.sharding import ShardedIndex
from rec.ranking.retrieval.sources import SourceTables, load_tables, save_tables

RELEASE_FILE = "release.json"
ENCODER_FILE = "encoder.json"
POPULARITY_FILE = "popularity.parquet"
ITEMS_FILE = "items.parquet"
EMBEDDINGS_FILE = "embeddings.safetensors"
_IMAGES, _HAS_IMAGE = "images", "has_image"
"""Tensors of the embeddings' file that are there where the towers see images."""
MODEL_FILE = "model.safetensors"
SOURCES_FILE = "sources.safetensors"
SEGMENTS_FILE = "segments.parquet"
INDEX_FILE = "items.faiss"
MAX_WEIGHT = 1000.0
"""Largest lambda: far beyond it a term alone decides, and scores lose their digits."""
_LISTS = ("pinned", "blocked", "exploration_by_class")
"""Fields that JSON holds as lists."""
MAX_NARRATED = 8
"""Texts that a language model writes at once."""
ANSWER_FILES = (
    RELEASE_FILE,
    ENCODER_FILE,
    POPULARITY_FILE,
    ITEMS_FILE,
    EMBEDDINGS_FILE,
    MODEL_FILE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingConfig:
    """Say how candidates become a list."""

    exclude_seen: bool = True
    """Leave out what the user has already had; turn off where repeats are wanted."""
    penalty_weight: float = 0.0
    """The article's lambda: how much an item's standardised popularity lowers its score."""
    num_candidates: int = 100
    """Items that one source proposes at most; at least ten times k is sensible."""
    repetition_weight: float = 0.0
    """Lambda of what the user was shown, or looked at, and did not take, in doublings."""
    staleness_weight: float = 0.0
    """Lambda of how little of an item's events is recent, standardised."""
    group_weight: float = 0.0
    """Lambda of how far an item's groups (column ``group``) are above parity of exposure."""
    diversity: float = 0.0
    """0 orders by score alone, 1 by unlikeness alone; above 0 a list is re-ranked as a whole."""
    diversifier: Diversifier = "mmr"
    """How: ``mmr`` is the simpler, ``dpp`` looks at all items above at once."""
    category_cap: int | None = None
    """Most places of one category in a list; none if absent. Holds even if the list gets short."""
    pinned: tuple[str, ...] = ()
    """Item ids that stand first in every list, in this order, also where seen ones are left out."""
    blocked: tuple[str, ...] = ()
    """Item ids that no list shows."""
    exploration: float = 0.0
    """Probability that the tail of a served list is drawn instead of sorted; 0 turns it off."""
    exploration_by_class: tuple[str, ...] = ()
    """The same for requests of a class, each ``CLASS=PROBABILITY``, for instance ``home=0.2``."""
    never_explore: bool = False
    """Draw nothing, whatever a class or a request asks for."""
    exploration_head: int = 3
    """Positions at the top that exploration never touches."""
    new_item_places: int = 0
    """Last places of a list kept for new items, so that they can earn feedback; at most half of
    those that are not pinned. Above 0 each list looks for candidates twice. On the demo's log one
    place changed NDCG@10 by -.0006 [-.0019, .0008], two by -.0035 [-.0061, -.0012]
    (``tests.benchmarks.new_item_places``)."""
    new_item_events: int = 5
    """An item with fewer events in the log is new."""
    new_item_impressions: int = 200
    """Lists on which a new item may stand before its quota is used up, by release and replica."""
    narrator: str | None = None
    """Causal language model that words explanations and interests, checked against the evidence:
    ``package:NAME``, a folder or a hub name. Templates alone if absent."""
    narrated_items: int = 2
    """Explanations of a list, from the top, that it words; each costs about a CPU-second."""
    narrator_seconds: float = 3.0
    """Time for all texts of an answer; who is later gets the template's."""

    def __post_init__(self) -> None:
        for name in ("penalty_weight", "repetition_weight", "staleness_weight", "group_weight"):
            check_weight(f"--ranking.{name.replace('_', '-')}", getattr(self, name))
        for name in ("diversity", "exploration"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"--ranking.{name} must be in [0, 1], got {getattr(self, name)}")
        if self.category_cap is not None and self.category_cap < 1:
            raise ConfigError(f"--ranking.category-cap must be >= 1, got {self.category_cap}")
        if self.exploration_head < 0:
            raise ConfigError(
                f"--ranking.exploration-head must be >= 0, got {self.exploration_head}"
            )
        if not 0 <= self.narrated_items <= MAX_NARRATED:
            raise ConfigError(
                f"--ranking.narrated-items must be in [0, {MAX_NARRATED}], "
                f"got {self.narrated_items}"
            )
        if not 0 < self.narrator_seconds <= 600:
            raise ConfigError(
                f"--ranking.narrator-seconds must be in (0, 600], got {self.narrator_seconds}"
            )
        for name, least in (
            ("new_item_places", 0), ("new_item_events", 1), ("new_item_impressions", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(
                    f"--ranking.{name.replace('_', '-')} must be >= {least}, "
                    f"got {getattr(self, name)}"
                )
        self._class_epsilons()
        both = sorted(set(self.pinned) & set(self.blocked))
        if both:
            raise ConfigError(
                f"--ranking.pinned and --ranking.blocked both name {both[0]!r}: leave one out"
            )
        if not 1 <= self.num_candidates <= 4000:
            raise ConfigError(
                f"--ranking.num-candidates must be in [1, 4000], got {self.num_candidates}"
            )

    def epsilon(self, *, asked: float | None, request_class: str | None) -> float:
        """Return the exploration of a request: none, else what it asks, its class's, or of all.

        >>> ranking = RankingConfig(exploration=0.1, exploration_by_class=("home=0.3",))
        >>> ranking.epsilon(asked=None, request_class="home")
        0.3
        >>> [ranking.epsilon(asked=epsilon, request_class="cart") for epsilon in (None, 0.5)]
        [0.1, 0.5]
        """
        if self.never_explore:
            return 0.0
        if asked is not None:
            return asked
        return self._class_epsilons().get(request_class or "", self.exploration)

    def _class_epsilons(self) -> dict[str, float]:
        found = {}
        for pair in self.exploration_by_class:
            name, _, value = pair.partition("=")
            try:
                epsilon = float(value)
            except ValueError:
                epsilon = -1.0
            if not name or not 0 <= epsilon <= 1 or name in found:
                raise ConfigError(
                    "--ranking.exploration-by-class must be CLASS=PROBABILITY in [0, 1], each "
                    f"class once, got {pair!r}"
                )
            found[name] = epsilon
        return found


def check_weight(name: str, value: float) -> None:
    """Say whether a lambda is in range.

    Raises:
        ConfigError: it is negative, no number, or so large that scores lose their digits.
    """
    if not value >= 0:
        raise ConfigError(f"{name} must be >= 0, got {value}")
    if value > MAX_WEIGHT:
        raise ConfigError(f"{name} must be <= {MAX_WEIGHT:g}, got {value}")


def ranking_from(values: Mapping[str, Any]) -> RankingConfig:
    """Return the configuration that a JSON file holds."""
    lists = {name: tuple(values.get(name, ())) for name in _LISTS}
    return RankingConfig(**{**values, **lists})


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseFiles:
    """Hold a release's content in memory."""

    items: pl.DataFrame
    counts: pl.DataFrame
    """``item_index, item_id, title, count, recent_count, cold_score``, best cold start first."""
    text: Tensor
    """float32 ``(1 + V, D_text)``."""
    embeddings: Tensor
    """float32 ``(V, D)``, e_i."""
    model: SequenceModel
    ranking: RankingConfig
    encoder: Mapping[str, Any]
    fingerprint: str
    event_type_names: Sequence[str]
    is_pseudonymized: bool
    ranker: Ranker | None = None
    tables: SourceTables | None = None
    """What the ranker's sources know; there exactly where a ranker is."""
    segments: pl.DataFrame | None = None
    """Lifts of items by user attribute, see ``rec.models.segments``; where users had attributes."""
    index: ApproximateIndex | None = None
    """Finds the nearest items; the exact search does if absent."""
    shards: ShardedIndex | None = None
    """Finds them on other replicas instead; never written."""
    withdrawn: NDArray[np.bool_] | None = None
    """bool ``(V,)``, items that must not be shown any more; never written, see ``live_catalog``."""


def write_release_files(folder: Path, files: ReleaseFiles) -> None:
    """Write everything into a folder."""
    files.items.write_parquet(folder / ITEMS_FILE, compression="zstd")
    files.counts.write_parquet(folder / POPULARITY_FILE, compression="zstd")
    tensors = {"text": files.text.contiguous(), "items": files.embeddings.contiguous()}
    if files.model.items.fusion is not None:
        images = files.model.items.fusion.images
        tensors |= {_IMAGES: images.embeddings.contiguous(), _HAS_IMAGE: images.is_present}
    save_file(tensors, folder / EMBEDDINGS_FILE)
    save_file(files.model.state_dict(), folder / MODEL_FILE)
    write_json(folder / ENCODER_FILE, files.encoder)
    write_json(
        folder / RELEASE_FILE,
        {
            "model": files.model.config,
            "ranking": files.ranking,
            "fingerprint": files.fingerprint,
            "event_type_names": list(files.event_type_names),
            "pseudonymized": files.is_pseudonymized,
            "index": None
            if files.index is None
            else {"kind": files.index.kind, "effort": files.index.effort},
        },
    )
    if files.index is not None:
        save_index(files.index, folder / INDEX_FILE)
    if files.segments is not None:
        files.segments.write_parquet(folder / SEGMENTS_FILE, compression="zstd")
    if files.ranker is not None and files.tables is not None:
        save_tables(files.tables, folder / SOURCES_FILE)
        save_ranker(files.ranker, folder)


def read_image_width(folder: Path) -> int | None:
    """Return the width of a release's image embeddings, ``None`` where its towers see none."""
    with safe_open(folder / EMBEDDINGS_FILE, framework="numpy") as tensors:
        if _IMAGES not in tensors.keys():  # noqa: SIM118 - it is no dictionary
            return None
        return int(tensors.get_slice(_IMAGES).get_shape()[1])


def read_release_files(folder: Path) -> ReleaseFiles:
    """Return the content of a release folder.

    Raises:
        ArtifactError: a file is missing, or of another version.
    """
    missing = [name for name in ANSWER_FILES if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(f"expected {', '.join(missing)} in {folder}: rerun jobs.index")
    values = json.loads((folder / RELEASE_FILE).read_text(encoding="utf-8"))
    items = pl.read_parquet(folder / ITEMS_FILE)
    tensors = load_file(folder / EMBEDDINGS_FILE)
    has_ranker = (folder / RANKER_FILE).is_file()
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ArtifactError(
                f"expected finite numbers in {folder / EMBEDDINGS_FILE}, {name} holds NaN or "
                "infinity: run jobs.embed, jobs.train and jobs.index again"
            )
    config = ModelConfig(**values["model"])
    model = SequenceModel(
        tensors["text"],
        num_items=items.height,
        num_event_types=len(values["event_type_names"]),
        config=config,
        images=ItemImages(embeddings=tensors[_IMAGES], is_present=tensors[_HAS_IMAGE])
        if _IMAGES in tensors
        else None,
    )
    try:
        model.load_state_dict(load_file(folder / MODEL_FILE))
    except RuntimeError as error:
        raise ArtifactError(
            f"{folder / MODEL_FILE} was made by another version of nextray: run jobs.pipeline again"
        ) from error
    built = values.get("index")
    return ReleaseFiles(
        items=items,
        counts=pl.read_parquet(folder / POPULARITY_FILE),
        text=tensors["text"],
        embeddings=tensors["items"],
        model=model.eval(),
        ranking=ranking_from(values["ranking"]),
        encoder=json.loads((folder / ENCODER_FILE).read_text(encoding="utf-8")),
        fingerprint=values["fingerprint"],
        event_type_names=tuple(values["event_type_names"]),
        is_pseudonymized=values["pseudonymized"],
        ranker=load_ranker(folder) if has_ranker else None,
        tables=load_tables(folder / SOURCES_FILE) if has_ranker else None,
        index=load_index(folder / INDEX_FILE, tensors["items"], **built) if built else None,
        segments=pl.read_parquet(path) if (path := folder / SEGMENTS_FILE).is_file() else None,
    )
