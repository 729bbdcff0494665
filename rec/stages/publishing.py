"""Publishing: the current release and the items' embeddings, on an object store for other hosts.

``STORE/files/SHA256`` are the bytes, each once; ``STORE/embeddings/FINGERPRINT.json`` names a shard
of the embedding store, ``STORE/releases/NAME.json`` is a release's manifest; ``STORE/current``
points to the release. They are written in this order, so who reads sees all of a release or none.

Nothing that is published is about a user: no log, no sequence, no text of a search. What one host
fetches is kept by sha256, and a second workspace on it gets a hard link.
"""

import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rec.artifacts import (
    MANIFEST,
    Artifact,
    file_sha256,
    keep_private,
    link_or_copy,
    point_latest,
    read_artifact,
    write_json,
)
from rec.data.items import load_items
from rec.data.object_store import FileCache, ObjectStore
from rec.encoders.prompts import render_items
from rec.encoders.store import EmbeddingStore, text_hash
from rec.errors import ArtifactError
from rec.ranking.current import CURRENT, current_release
from rec.stages.embedding import load_embeddings
from rec.stages.enriching import with_generated_fields
from rec.stages.releasing import point_current

_NAME = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"[0-9a-z-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """Say what was published or fetched."""

    release: str
    files: int
    """Of the release and the embeddings."""
    copied: int
    """Of these, what was not there yet."""


def publish(workspace: Path, uri: str) -> Moved:
    """Copy the current release and its items' embeddings to a store, and point to them.

    Raises:
        ArtifactError: nothing was promoted, a file has changed, or the encoder is the workspace's
            own, which other hosts do not have.
        ConfigError: nothing can be written to such a place.
        DataError: the store cannot be reached.
    """
    store = ObjectStore(uri)
    release = read_artifact(current_release(workspace), verify=True)
    embeddings = read_artifact(workspace / "embeddings" / release.parents["embeddings"])
    spec = embeddings.manifest["config"]["encoder"]
    if Path(spec["model"]).is_relative_to(workspace.resolve()):
        raise ArtifactError(
            f"release {release.name} needs the fine-tuned encoder {spec['model']}: only releases "
            "of a packaged encoder can be published, use --workspace on a shared file system"
        )
    files = {release.path / name: entry for name, entry in release.manifest["files"].items()}
    copied = sum(_put(store, path, entry["sha256"]) for path, entry in files.items())
    with tempfile.TemporaryDirectory() as scratch:
        shard = _write_shard(workspace, embeddings, Path(scratch))
        digest = file_sha256(shard)
        copied += _put(store, shard, digest)
        folder = f"{embeddings.manifest['config']['fingerprint']}-{spec['storage']}"
        _write_json(store, f"embeddings/{folder}.json", {shard.name: digest})
    _write_json(store, f"releases/{release.name}.json", release.manifest)
    _write_json(store, CURRENT, {"release": release.name, "embeddings": folder})
    return Moved(release=release.name, files=len(files) + 1, copied=copied)


def fetch(workspace: Path, uri: str, *, cache: Path) -> Moved:
    """Make the release that a store points to the workspace's current one.

    Args:
        workspace: root of the artifacts; made if there is none.
        uri: where something was published.
        cache: folder of this machine for files by sha256.

    Raises:
        ArtifactError: nothing was published there, or a file is missing or has changed.
        DataError: the store cannot be reached.
    """
    store, files = ObjectStore(uri), FileCache(cache)
    pointer = _read_json(store, CURRENT)
    name, folder = str(pointer.get("release")), str(pointer.get("embeddings"))
    if not _NAME.fullmatch(name) or not _FOLDER.fullmatch(folder):
        raise ArtifactError(f"{uri}/{CURRENT} names no release: publish again")
    manifest = _read_json(store, f"releases/{name}.json")
    shards = _read_json(store, f"embeddings/{folder}.json")
    wanted = {str(n): str(entry["sha256"]) for n, entry in manifest["files"].items()}
    for relative, digest in [*wanted.items(), *shards.items()]:
        parts = Path(relative).parts
        if Path(relative).is_absolute() or ".." in parts or not _SHA256.fullmatch(str(digest)):
            raise ArtifactError(f"{uri} names a file outside of the release: {relative}")
    keep_private(workspace)
    copied = _take(store, files, wanted, manifest, into=workspace / "releases" / name)
    room = workspace / "embeddings" / "store" / folder
    room.mkdir(parents=True, exist_ok=True)
    for shard, digest in shards.items():
        source, is_new = files.get(store, digest, name=_place(digest))
        copied += is_new
        if not (room / shard).exists():
            link_or_copy(source, room / shard)
    point_latest(workspace, "releases", name)
    point_current(workspace, name)
    return Moved(release=name, files=len(wanted) + len(shards), copied=copied)


def _take(
    store: ObjectStore,
    files: FileCache,
    wanted: Mapping[str, str],
    manifest: Mapping[str, Any],
    *,
    into: Path,
) -> int:
    """Make a folder of cached files, aside and renamed; return how many were fetched."""
    if into.exists():
        return 0
    aside = into.with_name(f".{into.name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir(parents=True)
    copied = 0
    try:
        for relative, digest in wanted.items():
            source, is_new = files.get(store, digest, name=_place(digest))
            copied += is_new
            (aside / relative).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, aside / relative)
        write_json(aside / MANIFEST, manifest)
        aside.rename(into)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return copied


def _write_shard(workspace: Path, embeddings: Artifact, folder: Path) -> Path:
    """Return one shard of the items alone: the store's own also hold texts that users typed."""
    spec = embeddings.manifest["config"]["encoder"]
    catalog = embeddings.parents["catalog"]
    items, _ = with_generated_fields(
        workspace,
        load_items(workspace / "catalog" / catalog),
        catalog=catalog,
        template=spec["template"],
    )
    rows = {text_hash(text): n for n, text in enumerate(render_items(items, spec["template"]))}
    matrix = load_embeddings(embeddings)[0]
    store = EmbeddingStore(folder=folder, storage=spec["storage"])
    store.write(list(rows), matrix[list(rows.values())])
    [shard] = folder.glob("*.parquet")
    return shard


def _put(store: ObjectStore, path: Path, sha256: str) -> bool:
    """Copy a file unless its bytes are there; say whether they were not."""
    name = _place(sha256)
    if store.has(name):
        return False
    store.put(name, path)
    return True


def _place(sha256: str) -> str:
    return f"files/{sha256}"


def _write_json(store: ObjectStore, name: str, value: Any) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    store.write(name, text.encode())


def _read_json(store: ObjectStore, name: str) -> Mapping[str, Any]:
    content = store.read(name)
    if content is None:
        raise ArtifactError(
            f"expected {name} in {store.uri}, found none: run `nextray publish` there first"
        )
    value: Mapping[str, Any] = json.loads(content)
    return value
