"""The catalog's part of a preparation: item and user files to one artifact."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from rec.artifacts import (
    Artifact,
    config_hash,
    file_sha256,
    find_artifact,
    point_latest,
    write_artifact,
)
from rec.data.cleaning import CleaningConfig
from rec.data.columns import concat_rows, list_names, text_column
from rec.data.files import list_files, read_chunks
from rec.data.items import CATALOG_FILE, clean_items
from rec.data.privacy import load_or_create_key, pseudonyms
from rec.data.rows import MARKS, RAW, REASON
from rec.data.storage import digest_of
from rec.data.tombstones import without_erased
from rec.errors import DataError
from rec.stages.data_card import describe_items
from rec.stages.item_overlay import OVERLAY_FILE, read_overlay, withdraw

CATALOG_VERSION = 2
"""Raising it makes catalogs anew that older code made of the same files."""
USERS_FILE = "users.parquet"
"""User attributes, beside the items: kept for cold start, under pseudonyms."""


def prepare_catalog(
    workspace: Path,
    *,
    items: Sequence[str],
    users: Sequence[str],
    config: CleaningConfig,
    key_path: Path,
    tombstones: frozenset[str] = frozenset(),
) -> tuple[Artifact, bool]:
    """Return the catalog of item and user files, and whether it was there already.

    Raises:
        DataError: nothing to read, a column missing, or no item left.
    """
    files = list_files(items)
    user_files = list_files(users) if users else []
    settings = {
        "version": CATALOG_VERSION,
        "files": file_digests(files),
        "users": file_digests(user_files),
        "pseudonymize_users": config.pseudonymize_users,
        **(erased_setting(tombstones) if user_files else {}),
    }
    overlay = read_overlay(workspace)
    if overlay.items:
        settings["item_changes"] = file_sha256(workspace / OVERLAY_FILE)
    name = config_hash("catalog", settings, {})
    found = find_artifact(workspace, "catalog", name)
    if found is not None:
        point_latest(workspace, "catalog", found.name)
        return found, True
    chunks = [(path, chunk) for path in files for chunk in read_chunks(path)]
    catalog = clean_items([*chunks, *overlay.chunks()])
    kept = withdraw(catalog, overlay.deleted)
    attributes = _read_users(user_files, config=config, key_path=key_path)
    if attributes is not None:
        attributes = without_erased(attributes, tombstones=tombstones, key_path=key_path)
    with write_artifact(workspace, "catalog", config=settings, parents={}) as draft:
        if attributes is not None:
            attributes.write_parquet(draft.path / USERS_FILE, compression="zstd")
            draft.details["users"] = attributes.height
        draft.details |= describe_items(kept)
        draft.details["item_changes_through"] = overlay.through
        kept.write_parquet(draft.path / CATALOG_FILE, compression="zstd")
        if catalog.quarantined.height:
            named = catalog.quarantined.rename({REASON: "reason", RAW: "raw"})
            named.write_parquet(draft.path / "quarantine.parquet")
        draft.counts |= {
            "rows_in": catalog.num_rows_in,
            "kept": kept.height,
            "withdrawn": catalog.items.height - kept.height,
            "duplicates": catalog.num_duplicates,
            "quarantined": dict(catalog.quarantined[REASON].value_counts().iter_rows()),
        }
    made = find_artifact(workspace, "catalog", name)
    assert made is not None
    return made, False


def erased_setting(tombstones: frozenset[str]) -> dict[str, str]:
    """Return what names an artifact that leaves erased users out; nothing if there are none."""
    if not tombstones:
        return {}
    return {"erased": hashlib.sha256("".join(sorted(tombstones)).encode()).hexdigest()[:16]}


def file_digests(paths: Sequence[str]) -> list[str]:
    """Return the digest of each file: what an artifact made of them is named by."""
    return [digest_of(path) for path in paths]


def _read_users(
    files: Sequence[str], *, config: CleaningConfig, key_path: Path
) -> pl.DataFrame | None:
    if not files:
        return None
    frames = []
    for path in files:
        for chunk in read_chunks(path):
            if "user_id" not in chunk.columns:
                found = list_names(chunk)
                raise DataError(f"{path}: expected a column 'user_id', found {found}")
            named = chunk.with_columns(text_column(chunk, "user_id", path))
            frames.append(named.drop(*MARKS, strict=False).drop_nulls("user_id"))
    if not frames:
        raise DataError("expected at least one user, the files are empty: check --users")
    users = concat_rows(frames, "users")
    if config.pseudonymize_users:
        names = pseudonyms(users["user_id"].to_list(), load_or_create_key(key_path))
        users = users.with_columns(pl.Series("user_id", names, dtype=pl.String))
    return users.unique("user_id", keep="last", maintain_order=True).sort("user_id")
