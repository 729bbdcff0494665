"""API keys: who may do what. Only hashes are kept; the admin key is written once, for its owner.

``WORKSPACE/admin.key`` (mode 0600) holds the key, ``WORKSPACE/keys.json`` the sha256 of every key
with its scope. Each scope includes the ones before it: read, write, admin.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rec.artifacts import write_json
from rec.data.privacy import create_private_file, read_private_file

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
ADMIN_KEY_FILE = "admin.key"
KEYS_FILE = "keys.json"


def ensure_admin_key(workspace: Path) -> tuple[str, bool]:
    """Return the admin key, and whether this call made it.

    Raises:
        ArtifactError: others may read the key's file.
    """
    path = workspace / ADMIN_KEY_FILE
    is_new = create_private_file(path, f"nextray_{secrets.token_urlsafe(32)}\n")
    key = read_private_file(path).strip()
    hashes = workspace / KEYS_FILE
    known = json.loads(hashes.read_text(encoding="utf-8")) if hashes.is_file() else {}
    if known.get(key_hash(key)) != "admin":
        write_json(hashes, {**known, key_hash(key): "admin"})
    hashes.chmod(0o600)
    return key, is_new


def load_keys(workspace: Path) -> Mapping[str, Scope]:
    """Return ``sha256 -> scope`` of all keys."""
    keys: Mapping[str, Scope] = json.loads((workspace / KEYS_FILE).read_text(encoding="utf-8"))
    return keys


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
