"""API keys: who may do what. Only hashes are kept; a key is shown once, to who made it.

``WORKSPACE/keys.json`` (mode 0600) holds the sha256 of every key with its name and scope, and
``WORKSPACE/admin.key`` (mode 0600) the admin key in clear, for its owner. Each scope includes the
ones before it: read, write, admin.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rec.artifacts import write_json
from rec.data.privacy import create_private_file, read_private_file
from rec.errors import ConfigError

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
ADMIN = "admin"
"""Name of the key that the first ``serve`` makes."""
ADMIN_KEY_FILE = "admin.key"
KEYS_FILE = "keys.json"
_LOCK_FILE = ".keys.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyEntry:
    """Say what is known of a key: not the key itself."""

    name: str
    scope: Scope


class KeyRing:
    """Hold the keys of a workspace, read again whenever their file has changed."""

    def __init__(self, workspace: Path) -> None:
        self._path = workspace / KEYS_FILE
        self._stamp: tuple[int, int] | None = None
        self._scopes: Mapping[str, Scope] = {}

    def scopes(self) -> Mapping[str, Scope]:
        """Return ``sha256 -> scope`` of all keys as they are now; none where the file is gone."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return {}
        # The file is replaced, never written in place: another number, even in the same tick.
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._scopes = {digest: entry.scope for digest, entry in _read(self._path).items()}
            self._stamp = stamp
        return self._scopes


def ensure_admin_key(workspace: Path) -> tuple[str, bool]:
    """Return the admin key, and whether this call made it.

    Raises:
        ArtifactError: others may read the key's file.
    """
    path = workspace / ADMIN_KEY_FILE
    is_new = create_private_file(path, _new_key() + "\n")
    key = read_private_file(path).strip()
    with _changing(workspace) as keys:
        # Who deletes the file to get a new key does not want the old one to work.
        for digest in [digest for digest, entry in keys.items() if entry.name == ADMIN]:
            del keys[digest]
        keys[key_hash(key)] = KeyEntry(name=ADMIN, scope="admin")
    return key, is_new


def add_key(workspace: Path, *, name: str, scope: Scope) -> str:
    """Return a new key; a running service takes it from its next request on.

    Raises:
        ConfigError: there is a key of that name.
    """
    if not name.strip():
        raise ConfigError("expected a name for the key (nextray keys add shop-web), got none")
    key = _new_key()
    with _changing(workspace) as keys:
        if name == ADMIN or any(entry.name == name for entry in keys.values()):
            raise ConfigError(f"there is a key {name!r}: revoke it first, or choose another name")
        keys[key_hash(key)] = KeyEntry(name=name, scope=scope)
    return key


def list_keys(workspace: Path) -> list[KeyEntry]:
    """Return all keys by name."""
    return sorted(_read(workspace / KEYS_FILE).values(), key=lambda entry: entry.name)


def revoke_key(workspace: Path, *, name: str) -> KeyEntry:
    """Take a key away and return what it was; a running service refuses it from then on.

    Without the admin key the next ``serve`` makes a new one.

    Raises:
        ConfigError: there is no key of that name.
    """
    with _changing(workspace) as keys:
        found = [digest for digest, entry in keys.items() if entry.name == name]
        if not found:
            names = ", ".join(sorted(entry.name for entry in keys.values())) or "none"
            raise ConfigError(f"expected the name of a key ({names}), got {name!r}")
        entries = [keys.pop(digest) for digest in found]
        if name == ADMIN:
            (workspace / ADMIN_KEY_FILE).unlink(missing_ok=True)
    return entries[0]


def scope_of(key: str, keys: Mapping[str, Scope]) -> Scope | None:
    """Return a key's scope, ``None`` for a stranger; takes as long for each."""
    asked = key_hash(key)
    found: Scope | None = None
    for known, scope in keys.items():
        if hmac.compare_digest(known, asked):
            found = scope
    return found


def allows(scope: Scope, wanted: Scope) -> bool:
    """Return whether a scope includes another.

    >>> allows("admin", "read"), allows("read", "write")
    (True, False)
    """
    return SCOPES.index(scope) >= SCOPES.index(wanted)


def key_hash(key: str) -> str:
    """Return the hex sha256 of a key; keys are random, so no salt is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def _new_key() -> str:
    return f"nextray_{secrets.token_urlsafe(32)}"


def _read(path: Path) -> dict[str, KeyEntry]:
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {digest: _entry(digest, row) for digest, row in rows.items()}


def _entry(digest: str, row: Any) -> KeyEntry:
    # Version 0.1.0 wrote the scope alone.
    if isinstance(row, str):
        row = {"name": ADMIN if row == ADMIN else digest[:8], "scope": row}
    return KeyEntry(**row)


@contextmanager
def _changing(workspace: Path) -> Iterator[dict[str, KeyEntry]]:
    """Give the keys to change; what is left in them on a clean exit is written, if it differs."""
    path = workspace / KEYS_FILE
    workspace.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(workspace / _LOCK_FILE, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        keys = _read(path)
        before = dict(keys)
        yield keys
        if keys != before:
            write_json(path, {digest: asdict(entry) for digest, entry in keys.items()})
            path.chmod(0o600)
    finally:
        os.close(descriptor)
