"""The catalog's part of a preparation: item and user files to one artifact."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from rec.artifacts import (
    Artifact,
    Draft,
    config_hash,
    file_sha256,
    find_artifact,
    point_latest,
    write_artifact,
)
from rec.data.cleaning import CleaningConfig
from rec.data.columns import mapping, rename_columns
from rec.data.files import list_files, read_chunks
from rec.data.items import CATALOG_FILE, clean_items
from rec.data.privacy import load_or_create_key
from rec.data.rows import RAW, REASON
from rec.data.storage import digest_of
from rec.data.tombstones import without_erased
from rec.data.users import Users, clean_users
from rec.stages.data_card import describe_items
from rec.stages.item_overlay import OVERLAY_FILE, read_overlay, withdraw

CATALOG_VERSION = 3
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

    A file that cannot be read ends the run: without a part of the catalog every event of its items
    would be quarantined.

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
        "item_column": config.item_column,
        "user_column": config.user_column,
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
    chunks = _read(files, mapping(config.item_column))
    catalog = clean_items([*chunks, *overlay.chunks()])
    kept = withdraw(catalog, overlay.deleted)
    attributes = None
    if user_files:
        attributes = clean_users(
            list(_read(user_files, mapping(config.user_column))),
            key=load_or_create_key(key_path) if config.pseudonymize_users else None,
            leave_out=partial(without_erased, tombstones=tombstones, key_path=key_path),
        )
    with write_artifact(workspace, "catalog", config=settings, parents={}) as draft:
        if attributes is not None:
            _write_users(draft, attributes)
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


def load_attributes(catalog: Path) -> pl.DataFrame | None:
    """Return the user attributes of a catalog's folder, by stored id; ``None`` without any."""
    path = catalog / USERS_FILE
    return pl.read_parquet(path) if path.is_file() else None


def erased_setting(tombstones: frozenset[str]) -> dict[str, str]:
    """Return what names an artifact that leaves erased users out; nothing if there are none."""
    if not tombstones:
        return {}
    return {"erased": hashlib.sha256("".join(sorted(tombstones)).encode()).hexdigest()[:16]}


def file_digests(paths: Sequence[str]) -> list[str]:
    """Return the digest of each file: what an artifact made of them is named by."""
    return [digest_of(path) for path in paths]


def _read(files: Sequence[str], names: Mapping[str, str]) -> Iterator[tuple[str, pl.DataFrame]]:
    for path in files:
        for chunk in read_chunks(path):
            yield path, rename_columns(chunk, names)


def _write_users(draft: Draft, users: Users) -> None:
    users.attributes.write_parquet(draft.path / USERS_FILE, compression="zstd")
    if users.quarantined.height:
        users.quarantined.write_parquet(draft.path / "users_quarantine.parquet")
    draft.details["users"] = users.attributes.height
    draft.counts["users"] = {
        "rows_in": users.num_rows_in,
        "kept": users.attributes.height,
        "duplicates": users.num_duplicates,
        "quarantined": dict(users.quarantined["reason"].value_counts().iter_rows()),
    }
