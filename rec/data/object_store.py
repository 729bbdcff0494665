"""A place that files are written to and read from whole: an object store, or a shared folder.

An object store has no rename and no folders, but a file in it is there whole or not at all. On a
file system a file is written aside and renamed, which comes to the same.
"""

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rec.artifacts import file_sha256
from rec.data.storage import WEB_SCHEMES, clear_errors, file_system, scheme_of
from rec.errors import ArtifactError, ConfigError

_CHUNK_BYTES = 1 << 22


class ObjectStore:
    """Read and write the files below a URI or a folder."""

    def __init__(self, uri: str) -> None:
        """Open a place.

        Raises:
            ConfigError: nothing can be written there.
            DataError: an unknown scheme, a package that it needs, or no access.
        """
        if scheme_of(uri) in WEB_SCHEMES:
            raise ConfigError(f"--store expects s3://, gs://, abfs:// or a folder, got {uri}")
        self.uri = uri.rstrip("/")
        self._is_folder = not scheme_of(uri)
        self._system, self._root = file_system(
            str(Path(self.uri).resolve()) if self._is_folder and "://" not in uri else self.uri
        )

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        with clear_errors(self.uri):
            return bool(self._system.exists(self._path(name)))

    def read(self, name: str) -> bytes | None:
        """Return a small file's bytes, ``None`` where there is none."""
        if not self.has(name):
            return None
        with clear_errors(self.uri), self._system.open(self._path(name), "rb") as stream:
            content: bytes = stream.read()
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file over what is there."""
        with self._writing(name) as path, self._system.open(path, "wb") as stream:
            stream.write(content)

    def put(self, name: str, source: Path) -> None:
        """Copy a local file to the place."""
        with (
            self._writing(name) as path,
            source.open("rb") as local,
            self._system.open(path, "wb") as remote,
        ):
            while chunk := local.read(_CHUNK_BYTES):
                remote.write(chunk)

    def fetch(self, name: str, target: Path, *, sha256: str) -> None:
        """Copy a file of the place beside ``target``, and rename it over if its sha256 is right.

        Raises:
            ArtifactError: it is missing or has other bytes.
        """
        if not self.has(name):
            raise ArtifactError(f"{self.uri}/{name} is missing: publish again")
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        digest = hashlib.sha256()
        try:
            with (
                clear_errors(self.uri),
                self._system.open(self._path(name), "rb") as remote,
                aside.open("wb") as local,
            ):
                while chunk := remote.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    local.write(chunk)
            if digest.hexdigest() != sha256:
                raise ArtifactError(
                    f"{self.uri}/{name} has changed since it was published (sha256 differs): "
                    "delete it and publish again"
                )
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _writing(self, name: str) -> Iterator[str]:
        path = self._path(name)
        with clear_errors(self.uri):
            if not self._is_folder:
                yield path
                return
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            aside = f"{path}.{uuid.uuid4().hex[:8]}"
            yield aside
            Path(aside).replace(path)


class FileCache:
    """Hold files of one machine by their sha256, so that each is fetched once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, store: ObjectStore, sha256: str, *, name: str) -> tuple[Path, bool]:
        """Return a file of a store as a path here, and whether it had to be fetched.

        A cached file that no longer has its bytes is fetched again.
        """
        path = self._folder / sha256[:2] / sha256
        if path.is_file() and file_sha256(path) == sha256:
            return path, False
        store.fetch(name, path, sha256=sha256)
        return path, True
