"""One user's attributes as a catalog keeps them, for whoever asks for a user without events."""

from pathlib import Path

import polars as pl

from rec.data.privacy import load_or_create_key
from rec.data.tombstones import load_tombstones, tombstones_of
from rec.models.segments import Profile, user_profiles
from rec.stages.preparation import KEY_FILE


def stored_profile(workspace: Path, attributes: Path, stored_id: str) -> Profile:
    """Return a user's attributes; none for an unknown user and for one who was erased since.

    The table is sorted by user, so a few row groups are read at most: milliseconds.

    Args:
        workspace: root of the artifacts.
        attributes: the catalog's table of users.
        stored_id: the user's id as stored.

    Raises:
        OSError, ArtifactError: a file cannot be read.
    """
    row = pl.scan_parquet(attributes).filter(pl.col("user_id") == stored_id).collect()
    if not row.height:
        return {}
    gone = load_tombstones(workspace)
    if gone and gone & set(tombstones_of([stored_id], load_or_create_key(workspace / KEY_FILE))):
        return {}
    return user_profiles(row)[stored_id]
