"""Where input files lie: a local path, or a URI of an object store or a web server.

``s3``, ``gs``, ``abfs`` and ``hdfs`` are read by Arrow, which needs no further package; every other
scheme by fsspec. Credentials come from the environment alone: what stands in a URI ends in logs.
Bytes are streamed; nothing here holds a file. Flaw: Parquet is read from its end, so over HTTP,
where few servers can do that, it is copied to a temporary file on disk first.
"""

import glob
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow.fs as pa_fs
from fsspec.implementations.arrow import ArrowFSWrapper

from rec.artifacts import file_sha256
from rec.errors import DataError

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
ARROW_SCHEMES = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs"})
WEB_SCHEMES = frozenset({"http", "https"})
_WEB_TIMEOUT_S = 60
"""Without a byte; the whole file may take as long as it takes."""
_BUFFER_BYTES = 1 << 22
"""One request to an object store: smaller ones cost a round trip each."""
_ENVIRONMENT: Mapping[str, str] = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")


def scheme_of(path: str) -> str:
    """Return the scheme of a URI, nothing for a local path; ``file`` is local.

    >>> scheme_of("s3://shop/log"), scheme_of("log.csv"), scheme_of("file:///log.csv")
    ('s3', '', '')
    """
    match = _URI.match(path)
    scheme = match[1].lower() if match else ""
    return "" if scheme == "file" else scheme


def suffix_of(path: str) -> str:
    """Return which of :data:`SUFFIXES` a path ends with, nothing if none; a web query is no part.

    >>> suffix_of("https://shop/log.csv.gz?sign=a.b"), suffix_of("log.txt")
    ('.csv.gz', '')
    """
    name = urlsplit(path).path if scheme_of(path) in WEB_SCHEMES else path
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def shown(path: str) -> str:
    """Return a path for a message: without a web query, which may hold a signature.

    >>> shown("https://shop/log.csv?sign=secret"), shown("a?.csv")
    ('https://shop/log.csv', 'a?.csv')
    """
    if scheme_of(path) not in WEB_SCHEMES:
        return path
    return urlsplit(path)._replace(query="", fragment="").geturl()


def find_files(path: str) -> list[str]:
    """Return what a file, a glob or a folder names, sorted: absolute local paths, or URIs.

    Links are followed, so a file and a link to it are one file. In a folder, hidden files and
    those whose name begins with ``_`` are left out, as other tools do.

    Raises:
        DataError: an unknown scheme, a package that it needs, credentials in the URI, or no access.
    """
    if scheme_of(path):
        return _find_remote(path)
    path = _local(path)
    if Path(path).is_dir():
        names = [str(file) for file in sorted(Path(path).rglob("*")) if _is_wanted(str(file))]
    elif any(mark in path for mark in "*?["):
        names = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - may be absolute
    else:
        names = [path]
    return [str(Path(name).resolve()) for name in names if Path(name).is_file()]


@contextmanager
def open_stream(path: str) -> Iterator[BinaryIO]:
    """Give a file's bytes from the first to the last; they are read once.

    Raises:
        DataError: the place cannot be reached at all.
    """
    if not scheme_of(path):
        with Path(path).open("rb") as stream:
            yield stream
        return
    system, name = file_system(path)
    options = {"block_size": 0} if scheme_of(path) in WEB_SCHEMES else {}
    with clear_errors(path):
        raw = system.open(name, "rb", **options)
    with io.BufferedReader(_Remote(raw, path), _BUFFER_BYTES) as buffered:
        yield buffered


@contextmanager
def open_random(path: str) -> Iterator[BinaryIO]:
    """Give a file's bytes in any order, for formats that are read from their end."""
    if scheme_of(path) in WEB_SCHEMES:
        with open_stream(path) as stream, tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, _BUFFER_BYTES)
            copy.seek(0)
            yield copy
    else:
        with open_stream(path) as stream:
            yield stream


def size_of(path: str) -> int | None:
    """Return a file's bytes; nothing where its place does not say."""
    if not scheme_of(path):
        return Path(path).stat().st_size
    with clear_errors(path):
        system, name = file_system(path)
        size = system.info(name).get("size")
    return None if size is None else int(size)


def digest_of(path: str) -> str:
    """Return what changes when the file does: what an artifact made of it is named by.

    The sha256 of its bytes; of an object in a store, which would have to be fetched for that, the
    URI with its size and the time at which it was written.
    """
    if not scheme_of(path):
        return file_sha256(Path(path))
    if _is_arrow(path):
        with clear_errors(path):
            system, name = file_system(path)
            info = system.info(name)
        return hashlib.sha256(f"{path}\n{info['size']}\n{info['mtime']}".encode()).hexdigest()
    digest = hashlib.sha256()
    with open_stream(path) as stream:
        while chunk := stream.read(_BUFFER_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class _Remote(io.RawIOBase):
    """Read a remote file; an error of its place is told from one of its content."""

    def __init__(self, stream: Any, path: str) -> None:
        self._stream = stream
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return scheme_of(self._path) not in WEB_SCHEMES

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def readinto(self, buffer: Any) -> int:
        with clear_errors(self._path):
            block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _find_remote(uri: str) -> list[str]:
    """Return the URIs of a remote file, glob or folder."""
    system, name = file_system(uri)
    is_web = scheme_of(uri) in WEB_SCHEMES
    with clear_errors(uri):
        if any(mark in (urlsplit(uri).path if is_web else uri) for mark in "*?["):
            found = [str(part) for part in system.glob(name)]
        elif is_web:
            # Whether it is a folder shows in its name alone: asking would fetch it.
            if not name.endswith("/"):
                with system.open(name, "rb", block_size=0):
                    return [uri]
            found = [f for f in map(str, system.find(name)) if _is_wanted(shown(f))]
        elif system.info(name)["type"] == "directory":
            found = [part for part in map(str, system.find(name)) if _is_wanted(part)]
        else:
            return [uri]
    scheme = uri[: uri.index("://") + 3]
    return sorted(
        part if is_web else scheme + system._strip_protocol(part).lstrip("/") for part in found
    )


def _is_wanted(name: str) -> bool:
    return bool(suffix_of(name)) and not name.rpartition("/")[2].startswith((".", "_"))


def _is_arrow(path: str) -> bool:
    return scheme_of(path) in ARROW_SCHEMES


def _local(path: str) -> str:
    """Return a local path; that of a ``file`` URI is unquoted."""
    if not _URI.match(path):
        return path
    parts = urlsplit(path)
    if parts.netloc not in ("", "localhost"):
        raise DataError(
            f"expected file:///PATH, got {path!r}: file URIs name files of this machine"
        )
    return unquote(parts.path)


def file_system(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI and the name of its file there.

    Raises:
        DataError: an unknown scheme, a package that it needs, or credentials in the URI.
    """
    scheme = scheme_of(uri)
    parts = urlsplit(uri)
    if "@" in parts.netloc and not scheme.startswith("abfs"):
        raise DataError(
            f"expected no user or key in the {scheme} URI: credentials come from the environment"
        )
    try:
        if scheme in ARROW_SCHEMES:
            with clear_errors(uri):
                return _arrow_system(uri)
        options = _web_options() if scheme in WEB_SCHEMES else {}
        system, name = fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        detail = " ".join(str(error).split())
        raise DataError(f"cannot read {shown(uri)}: {detail}") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "abfs", "hdfs", "https", "file"))
        raise DataError(
            f"expected a local path or a URI such as {known}, got {shown(uri)!r}"
        ) from error
    return system, name


def _arrow_system(uri: str) -> tuple[Any, str]:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme_of(uri) == "s3" and endpoint:
        # Arrow asks Amazon where a bucket is, and does not read these names by itself.
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        store = pa_fs.S3FileSystem(endpoint_override=endpoint, region=region or "us-east-1")
        return ArrowFSWrapper(store), uri.partition("://")[2]
    system, name = pa_fs.FileSystem.from_uri(uri)
    return ArrowFSWrapper(system), name


def _web_options() -> dict[str, Any]:
    import aiohttp  # of fsspec[http]; heavy, and most logs are files

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=_WEB_TIMEOUT_S, sock_read=_WEB_TIMEOUT_S
    )
    return {"client_kwargs": {"timeout": timeout}}


@contextmanager
def clear_errors(uri: str) -> Iterator[None]:
    """Say what a store or a server means: nothing there, no access, or no connection."""
    try:
        yield
    except Exception as error:
        # fsspec calls whatever a web server says "not found"; its answer is the cause.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
        status = getattr(cause, "status", None)
        if cause is None or status == HTTPStatus.NOT_FOUND or type(cause) is FileNotFoundError:
            raise DataError(f"found nothing at {shown(uri)!r}: check the name") from None
        if not isinstance(cause, OSError) and status is None:
            raise
        text = " ".join(str(cause).split())
        is_refused = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        if is_refused or isinstance(cause, PermissionError) or "ACCESS_DENIED" in text:
            names = _ENVIRONMENT.get(scheme_of(uri))
            where = f" ({names})" if names else ""
            raise DataError(
                f"no access to {shown(uri)}: credentials come from the environment{where}"
            ) from error
        detail = text.replace(uri, shown(uri))[:200]
        raise DataError(f"cannot reach {shown(uri)}: {detail}") from error
