"""Artifacts: the folders that stages hand to each other, and the workspace that holds them.

An artifact is a folder with a ``manifest.json`` (kind, config, parents, counts, sha256 of every
file). Its name is the hash of what it was made from, so unchanged input means an existing folder
and nothing to do. It is written aside and renamed, so a reader sees all of it or none of it.

``WORKSPACE/ROOM/HASH/`` is an artifact; ``WORKSPACE/ROOM/latest`` names the newest one.
"""

import ctypes
import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rec.errors import ArtifactError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
ROOMS = (
    "events",
    "catalog",
    "sequences",
    "enrichments",
    "encoders",
    "embeddings",
    "models",
    "indexes",
    "reports",
    "releases",
    "feedback",
)
_CHUNK_BYTES = 1 << 20
_REWRITE = ".rewrite"
_EXCHANGE, _AT_FOLDER = 2, -100
"""Linux: RENAME_EXCHANGE and AT_FDCWD of renameat2."""


class Parents(dict[str, str]):
    """Hold what an artifact was made from, kind -> name; a kind that is not named is an error."""

    def __init__(self, named: Mapping[str, str], *, child: Path) -> None:
        """Hold the names, and whose they are."""
        super().__init__(named)
        self._child = child

    def __missing__(self, kind: str) -> str:
        """Say which artifact does not name such a parent.

        Raises:
            ArtifactError: always.
        """
        raise ArtifactError(
            f"{self._child}: expected a parent of kind '{kind}' in its manifest, found "
            f"{', '.join(sorted(self)) or 'none'}: make it again with the pipeline"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """Describe one finished folder.

    Attributes:
        path: the folder.
        kind: the room it lives in (``events``, ``catalog``, ...).
        name: the hash it is named by.
        manifest: the whole manifest, as read.
    """

    path: Path
    kind: str
    name: str
    manifest: Mapping[str, Any]

    @property
    def counts(self) -> Mapping[str, Any]:
        """Return the counts that the stage wrote."""
        counts: Mapping[str, Any] = self.manifest["counts"]
        return counts

    @property
    def parents(self) -> Mapping[str, str]:
        """Return the artifacts this one was made from, as ``kind -> name``."""
        return Parents(self.manifest["parents"], child=self.path)


@dataclass(kw_only=True, slots=True)
class Draft:
    """Hold an artifact while it is written: a folder aside, and the manifest's open fields."""

    path: Path
    counts: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def to_plain(value: Any) -> Any:
    """Return ``value`` as JSON material: dataclasses become dicts, paths become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def config_hash(kind: str, config: Any, parents: Mapping[str, str]) -> str:
    """Return 16 hex digits that name the artifact made by ``config`` from ``parents``.

    >>> config_hash("model", {"width": 8}, {"catalog": "a"})
    '9e37fecc092e9f75'
    >>> config_hash("model", {"width": 8}, {"catalog": "b"})
    '0a763afcabfbb4cd'
    """
    payload = {
        "format": FORMAT_VERSION,
        "kind": kind,
        "config": to_plain(config),
        "parents": dict(parents),
    }
    text = json.dumps(payload, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON beside ``path`` and rename it over: a reader sees old or new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    text = json.dumps(to_plain(value), indent=1, sort_keys=True, ensure_ascii=False)
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def find_artifact(workspace: Path, kind: str, name: str) -> Artifact | None:
    """Return the finished artifact of that name, or ``None`` where there is none."""
    path = workspace / kind / name
    return read_artifact(path) if (path / MANIFEST).is_file() else None


def latest_artifact(workspace: Path, kind: str, *, made_by: str) -> Artifact:
    """Return the newest artifact of a room.

    Raises:
        ArtifactError: the room is empty; the message names the job (``made_by``) that fills it.
    """
    pointer = workspace / kind / "latest"
    if not pointer.is_file():
        raise ArtifactError(
            f"expected {kind} in workspace {workspace}, found none: "
            f"run `python -m jobs.{made_by} RECIPE --workspace {workspace}` first"
        )
    return read_artifact(workspace / kind / pointer.read_text(encoding="utf-8").strip())


def read_artifact(path: Path, *, verify: bool = False) -> Artifact:
    """Return the artifact in a folder; with ``verify`` compare every file with its sha256.

    Raises:
        ArtifactError: no manifest, a newer format, or a file that is missing or changed.
    """
    source = path / MANIFEST
    try:
        manifest = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"expected an artifact with {MANIFEST} in {path}, found none: rerun the job"
        ) from None
    except ValueError as error:
        raise ArtifactError(f"{source} is not JSON ({error}): delete {path} and rerun") from error
    if manifest.get("format") != FORMAT_VERSION:
        raise ArtifactError(
            f"{source} has format {manifest.get('format')!r}, this version reads "
            f"{FORMAT_VERSION}: rebuild it with the installed version"
        )
    if verify:
        _verify_files(path, manifest["files"])
    return Artifact(path=path, kind=manifest["kind"], name=manifest["name"], manifest=manifest)


@contextmanager
def write_artifact(
    workspace: Path, kind: str, *, config: Any, parents: Mapping[str, str]
) -> Iterator[Draft]:
    """Give a folder to fill; on a clean exit it becomes the artifact, on an error it goes away.

    The caller fills ``draft.path`` with files and ``draft.counts`` / ``draft.details``. The
    manifest is written last, the folder is renamed, and ``latest`` points to it.
    """
    name = config_hash(kind, config, parents)
    room = workspace / kind
    keep_private(workspace)
    room.mkdir(parents=True, exist_ok=True)
    aside = room / f".{name}.{uuid.uuid4().hex[:8]}"
    aside.mkdir()
    draft = Draft(path=aside)
    try:
        yield draft
        manifest = {
            "format": FORMAT_VERSION,
            "kind": kind,
            "name": name,
            "config": config,
            "parents": dict(parents),
            "counts": draft.counts,
            "details": draft.details,
            "files": _digests(aside),
        }
        write_json(aside / MANIFEST, manifest)
        final = room / name
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        point_latest(workspace, kind, name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def rewrite_artifact(artifact: Artifact) -> Iterator[Draft]:
    """Give a copy of an artifact to change; on a clean exit it takes the artifact's place.

    Only an erasure changes what is finished: name, config and parents stay, so whatever was made
    of the artifact still finds it. The files of the copy are hard links, so the caller replaces
    files (:func:`replace_file`) and never writes into one. A reader sees the old folder or the new
    one; what a killed rewrite leaves is cleared by :func:`finish_rewrites`.
    """
    room, name = artifact.path.parent, artifact.name
    aside = room / f".{name}{_REWRITE}"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(artifact.path, aside, copy_function=link_or_copy)
    counts, details = to_plain(artifact.counts), to_plain(artifact.manifest["details"])
    draft = Draft(path=aside, counts=counts, details=details)
    try:
        yield draft
        fields = {"counts": draft.counts, "details": draft.details, "files": _digests(aside)}
        write_json(aside / MANIFEST, {**artifact.manifest, **fields})
        _exchange(aside, artifact.path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def finish_rewrites(workspace: Path) -> None:
    """Clear away what killed rewrites left; a folder that lost its place is put back."""
    for aside in workspace.glob(f"*/.*{_REWRITE}"):
        final = aside.with_name(aside.name[1 : -len(_REWRITE)])
        if final.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(final)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside ``path`` and rename it over: other names of the old one keep it."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name where the file system can, else copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def point_latest(workspace: Path, kind: str, name: str) -> None:
    """Make ``name`` the newest artifact of its room, atomically."""
    pointer = workspace / kind / "latest"
    aside = pointer.with_name(f".latest.{uuid.uuid4().hex}")
    aside.write_text(name + "\n", encoding="utf-8")
    aside.replace(pointer)


def _digests(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        str(file.relative_to(folder)): {"sha256": file_sha256(file), "bytes": file.stat().st_size}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST
    }


def _exchange(aside: Path, final: Path) -> None:
    """Swap two folders in one step; where the system cannot, in two that leave both whole."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is not None:
        names = os.fsencode(aside), os.fsencode(final)
        if swap(_AT_FOLDER, names[0], _AT_FOLDER, names[1], _EXCHANGE) == 0:
            return
    old = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    final.rename(old)
    aside.rename(final)
    shutil.rmtree(old)


def keep_private(workspace: Path) -> None:
    """Keep a workspace out of git and out of what ``ray job submit --working-dir`` uploads.

    It holds keys and customers' data. A ``.gitignore`` of the user's own is left alone, and so is
    the root of a repository.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    path = workspace / ".gitignore"
    if not path.exists() and not (workspace / ".git").exists():
        path.write_text("*\n", encoding="utf-8")


def _verify_files(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for relative, entry in files.items():
        file = path / relative
        if not file.is_file():
            raise ArtifactError(f"{file} is missing: the folder is damaged, rebuild it")
        if file_sha256(file) != entry["sha256"]:
            raise ArtifactError(
                f"{file} has changed since it was written (sha256 differs): rebuild it"
            )
