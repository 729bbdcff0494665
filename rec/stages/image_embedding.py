"""Pictures of the catalog to image embeddings: read, encoded once a picture, kept by content.

The catalog's ``image`` column holds the bytes of a picture or its path below
``--encoder.image-folder``; no path leads out of that folder.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xxhash

from rec.encoders.images import ImageEmbeddings
from rec.encoders.store import EmbeddingStore
from rec.encoders.vision import VisionEncoder
from rec.errors import ConfigError
from rec.spread import Spread

IMAGE_FILE_COLUMN = "image"
BLOCK_IMAGES = 64
"""Pictures of one task: what a killed worker begins again."""
_log = logging.getLogger(__name__)

Picture = tuple[str, str | bytes]
"""Hash of its bytes, and where it lies or the bytes themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeImages:
    """Encode blocks of pictures into the store; one instance a worker."""

    encoder: VisionEncoder
    store: EmbeddingStore

    def __call__(self, pictures: Sequence[Picture]) -> int:
        """Return how many could not be read as pictures."""
        contents = [_content(source) or b"" for _, source in pictures]
        embeddings, is_read = self.encoder.encode(contents)
        keys = [key for (key, _), good in zip(pictures, is_read, strict=True) if good]
        if keys:
            self.store.write(keys, embeddings[is_read])
        return int((~is_read).sum())


def embed_images(
    items: pl.DataFrame,
    *,
    model: str,
    fingerprint: str,
    folder: Path | None,
    room: Path,
    spread: Spread,
) -> tuple[ImageEmbeddings | None, dict[str, int]]:
    """Return the image embeddings of a catalog, and counts: distinct, encoded, unreadable.

    Args:
        items: the catalog.
        model: of :class:`VisionEncoder`.
        fingerprint: of that model.
        folder: where paths begin; only bytes are read if absent.
        room: folder of the embedding stores.
        spread: who encodes.

    Raises:
        ConfigError: the catalog has no ``image`` column, or paths and no folder.
    """
    if IMAGE_FILE_COLUMN not in items.columns:
        raise ConfigError(
            f"--encoder.image-model {model}: expected a column {IMAGE_FILE_COLUMN!r} in the "
            "catalog (a path or the bytes of a picture), found none"
        )
    values = items[IMAGE_FILE_COLUMN].to_list()
    pictures = [_picture(value, folder) for value in values]
    wanted = {picture[0]: picture for picture in pictures if picture is not None}
    store = EmbeddingStore(folder=room / f"image-{fingerprint}")
    store.open()
    missing = [wanted[key] for key in sorted(wanted.keys() - store.known())]
    blocks = [
        missing[start : start + BLOCK_IMAGES] for start in range(0, len(missing), BLOCK_IMAGES)
    ]
    unreadable = sum(spread(_factory(model, store), blocks, label="encoding images"))
    num_lost = sum(map(bool, values)) - sum(map(bool, pictures))
    if unreadable or num_lost:
        _log.warning(
            "%d pictures could not be read and %d were not found: their items go by their text",
            unreadable,
            num_lost,
        )
    known = store.known()
    keys = {n: picture[0] for n, picture in enumerate(pictures) if picture is not None}
    keys = {row: key for row, key in keys.items() if key in known}
    counts = {
        "distinct_images": len(wanted),
        "encoded_images": len(missing) - unreadable,
        "unreadable_images": unreadable + num_lost,
    }
    if not keys:
        return None, counts
    found = store.read(list(keys.values()))
    embeddings = np.zeros((items.height, found.shape[1]), dtype=np.float32)
    embeddings[list(keys)] = found
    is_present = np.zeros(items.height, dtype=np.bool_)
    is_present[list(keys)] = True
    return ImageEmbeddings(embeddings=embeddings, is_present=is_present), counts


def _picture(value: Any, folder: Path | None) -> Picture | None:
    """Return a picture of a catalog's value; ``None`` where there is none."""
    if not value:
        return None
    source: str | bytes = value
    if isinstance(value, str):
        if folder is None:
            raise ConfigError(
                f"the catalog's column {IMAGE_FILE_COLUMN!r} holds paths ({value[:40]!r}): say "
                "below which folder with --encoder.image-folder"
            )
        path = (folder / value).resolve()
        if not path.is_relative_to(folder.resolve()):
            return None
        source = str(path)
    content = _content(source)
    return None if content is None else (xxhash.xxh3_128_hexdigest(content), source)


def _content(source: str | bytes) -> bytes | None:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError:
        return None


def _factory(model: str, store: EmbeddingStore) -> Callable[[], Callable[[Sequence[Picture]], int]]:
    return lambda: EncodeImages(encoder=VisionEncoder(model), store=store)
