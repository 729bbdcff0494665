"""API keys: who may do what, how often. Only hashes are kept; a key is shown once, to its maker.

``WORKSPACE/keys.json`` (mode 0600) holds the sha256 of every key with its name and scope, and
``WORKSPACE/admin.key`` (mode 0600) the admin key in clear, for its owner. Each scope includes the
ones before it: read, write, admin.
"""

import fcntl
import hashlib
import hmac
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rec.artifacts import write_json
from rec.data.private_files import create_private_file, read_private_file
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
    per_minute: int | None = None
    """Requests a minute, counted by each gateway replica; ``None`` = no limit."""
    expires_at_ms: int | None = None
    """When a key that was rotated stops to work; ``None`` = never."""


class KeyRing:
    """Hold the keys of a workspace, read again whenever their file has changed."""

    def __init__(self, workspace: Path) -> None:
        self._path = workspace / KEYS_FILE
        self._stamp: tuple[int, int] | None = None
        self._entries: Mapping[str, KeyEntry] = {}

    def entries(self) -> Mapping[str, KeyEntry]:
        """Return ``sha256 -> entry`` of all keys as they are now; none where the file is gone."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return {}
        # The file is replaced, never written in place: another number, even in the same tick.
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._entries = _read(self._path)
            self._stamp = stamp
        return self._entries


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
        for digest in [digest for digest, entry in keys.items() if _is_old_admin(entry)]:
            del keys[digest]
        keys[key_hash(key)] = KeyEntry(name=ADMIN, scope="admin")
    return key, is_new


def add_key(workspace: Path, *, name: str, scope: Scope, per_minute: int | None = None) -> str:
    """Return a new key; a running service takes it from its next request on.

    Raises:
        ConfigError: there is a key of that name, or the quota is none.
    """
    if per_minute is not None and per_minute < 1:
        raise ConfigError(f"--per-minute must be >= 1, got {per_minute}")
    if not name.strip():
        raise ConfigError("expected a name for the key (nextray keys add shop-web), got none")
    key = _new_key()
    with _changing(workspace) as keys:
        if name == ADMIN or any(entry.name == name for entry in keys.values()):
            raise ConfigError(f"there is a key {name!r}: revoke it first, or choose another name")
        keys[key_hash(key)] = KeyEntry(name=name, scope=scope, per_minute=per_minute)
    return key


def rotate_key(workspace: Path, *, name: str, grace_s: float) -> str:
    """Return a new key in place of an old one, which works on for some time.

    Scope and quota stay. The admin key's file holds the new one.

    Raises:
        ConfigError: there is no key of that name, or the time is negative.
    """
    if not grace_s >= 0:
        raise ConfigError(f"--grace-s must be >= 0, got {grace_s}")
    key = _new_key()
    ends_ms = round(1000 * (time.time() + grace_s))
    with _changing(workspace) as keys:
        found = [d for d, e in keys.items() if e.name == name and e.expires_at_ms is None]
        if not found:
            raise _no_key(name, keys)
        entry = keys[found[0]]
        for digest in found:
            if grace_s:
                keys[digest] = replace(keys[digest], expires_at_ms=ends_ms)
            else:
                del keys[digest]
        if name == ADMIN:
            _replace_admin_key(workspace / ADMIN_KEY_FILE, key)
        keys[key_hash(key)] = entry
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
            raise _no_key(name, keys)
        entries = [keys.pop(digest) for digest in found]
        if name == ADMIN:
            (workspace / ADMIN_KEY_FILE).unlink(missing_ok=True)
    return entries[0]


def holder_of(key: str, keys: Mapping[str, KeyEntry]) -> KeyEntry | None:
    """Return what is known of a key, ``None`` for a stranger; takes as long for each."""
    asked = key_hash(key)
    found: KeyEntry | None = None
    for known, entry in keys.items():
        if hmac.compare_digest(known, asked):
            found = entry
    if found is None or found.expires_at_ms is None:
        return found
    return found if 1000 * time.time() < found.expires_at_ms else None


def allows(scope: Scope, wanted: Scope) -> bool:
    """Return whether a scope includes another.

    >>> allows("admin", "read"), allows("read", "write")
    (True, False)
    """
    return SCOPES.index(scope) >= SCOPES.index(wanted)


def key_hash(key: str) -> str:
    """Return the hex sha256 of a key; keys are random, so no salt is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def _is_old_admin(entry: KeyEntry) -> bool:
    """Return whether an entry is an admin key that nobody has rotated out on purpose."""
    return entry.name == ADMIN and entry.expires_at_ms is None


def _no_key(name: str, keys: Mapping[str, KeyEntry]) -> ConfigError:
    names = ", ".join(sorted({entry.name for entry in keys.values()})) or "none"
    return ConfigError(f"expected the name of a key ({names}), got {name!r}")


def _replace_admin_key(path: Path, key: str) -> None:
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    create_private_file(aside, key + "\n")
    aside.replace(path)


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
        before = _read(path)
        now_ms = 1000 * time.time()
        keys = {d: e for d, e in before.items() if (e.expires_at_ms or math.inf) > now_ms}
        yield keys
        if keys != before:
            write_json(path, {digest: asdict(entry) for digest, entry in keys.items()})
            path.chmod(0o600)
    finally:
        os.close(descriptor)
