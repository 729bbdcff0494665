"""Where a workspace's feedback lives, if not in its own SQLite files.

The file holds a server's address, which may hold its password: mode 0600, like the workspace's
keys. The namespace is this workspace's own, so that two of them may share a database.
"""

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from rec.artifacts import write_json
from rec.errors import ArtifactError, ConfigError

STORE_FILE = Path("feedback") / "store.json"
STORE_FORMAT = 1
SCHEMES = ("redis", "rediss", "unix")
SQLITE = "sqlite"


@dataclass(frozen=True, kw_only=True, slots=True)
class StorePlace:
    """Say which server, and what of it."""

    url: str
    """``redis://[USER:PASSWORD@]HOST:PORT/DB``; ``rediss`` with TLS, ``unix`` for a socket."""
    namespace: str

    @property
    def shown(self) -> str:
        """Return the address without its password, for messages."""
        return without_password(self.url)


def read_place(workspace: Path) -> StorePlace | None:
    """Return where a workspace's feedback lives; ``None`` for its own files.

    Raises:
        ArtifactError: the file cannot be read.
    """
    path = workspace / STORE_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != STORE_FORMAT:
            raise ArtifactError(
                f"{path} has format {content['format']!r}, this version reads {STORE_FORMAT}: "
                "install the version that wrote it"
            )
        return StorePlace(url=content["url"], namespace=content["namespace"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} says where the feedback is and cannot be read ({error}): restore it"
        ) from error


def write_place(workspace: Path, place: StorePlace) -> None:
    """Write where the feedback lives from now on."""
    path = workspace / STORE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o077)
    try:
        write_json(path, {"format": STORE_FORMAT, "url": place.url, "namespace": place.namespace})
    finally:
        os.umask(before)


def new_place(url: str) -> StorePlace:
    """Return a place that no workspace has used yet.

    Raises:
        ConfigError: the address is none of a Redis or Valkey server.

    >>> new_place("redis://:secret@db:6379/0").shown
    'redis://db:6379/0'
    """
    check_url(url)
    return StorePlace(url=url, namespace=uuid.uuid4().hex)


def with_password(url: str, password: str | None) -> str:
    """Return an address with a password, unless it names one or there is none to name.

    >>> with_password("redis://db:6379/1", "s/cret")
    'redis://:s%2Fcret@db:6379/1'
    >>> with_password("redis://:own@db:6379/1", "secret"), with_password("sqlite", "secret")
    ('redis://:own@db:6379/1', 'sqlite')
    """
    parts = urlsplit(url)
    if not password or not parts.netloc or parts.password is not None:
        return url
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}").geturl()


def check_url(url: str) -> None:
    """Refuse what is no address.

    Raises:
        ConfigError: it is neither ``sqlite`` nor an address of a server.
    """
    parts = urlsplit(url)
    if url != SQLITE and (parts.scheme not in SCHEMES or not (parts.netloc or parts.path)):
        raise ConfigError(
            "--history expects redis://HOST:PORT/DB (or rediss://, unix://) or sqlite, got "
            f"{without_password(url)!r}"
        )


def without_password(url: str) -> str:
    """Return an address that may be shown.

    >>> without_password("redis://shop:secret@db:6379/0"), without_password("db:6379")
    ('redis://db:6379/0', 'db:6379')
    """
    parts = urlsplit(url)
    if not parts.netloc:
        return url.rpartition("@")[2]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
