"""Pseudonyms: user ids are stored as keyed hashes, so that files alone name nobody.

The key lives in one file of the workspace. Who holds it can recompute a pseudonym from an id (and
so honour an access or erasure request), but not the id from a pseudonym. Flaw: behaviour itself
can identify a person; a pseudonymous log is still personal data.
"""

import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from rec.data.distinct import map_distinct
from rec.data.private_files import create_private_file, read_private_file
from rec.errors import ArtifactError

KEY_BYTES = 32
_PSEUDONYM_HEX_DIGITS = 32
MAX_REMEMBERED = 1 << 19
"""Users whose pseudonyms are held while a file is read: at most about 100 MB."""


def load_or_create_key(path: Path) -> bytes:
    """Return the key of a file, which is created with 32 random bytes where there is none.

    Processes that create it at the same time all get the same key.

    Raises:
        ArtifactError: the file can be read by others, or does not hold 64 hex digits.
    """
    if not path.exists():
        create_private_file(path, secrets.token_hex(KEY_BYTES) + "\n")
    text = read_private_file(path).strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ArtifactError(
            f"expected {2 * KEY_BYTES} hex digits in {path}, found something else: restore the key "
            "from a backup; with a new key every known user becomes a stranger"
        )
    return key


def pseudonym(user_id: str, key: bytes) -> str:
    """Return 32 hex digits that stand for a user: HMAC-SHA-256 of the id, cut to 128 bits.

    >>> pseudonym("alice", bytes(32))
    'ce3837f76a54a635191b1704ac767226'
    >>> pseudonym("alice", bytes(32)) == pseudonym("alice", b"1" * 32)
    False
    """
    return hmac.digest(key, user_id.encode(), "sha256").hex()[:_PSEUDONYM_HEX_DIGITS]


def pseudonyms(user_ids: Sequence[str], key: bytes) -> list[str]:
    """Return one pseudonym per id, in order; each distinct id is hashed once.

    >>> pseudonyms(["a", "b", "a"], bytes(32))[0] == pseudonym("a", bytes(32))
    True
    """
    known = {user_id: pseudonym(user_id, key) for user_id in set(user_ids)}
    return [known[user_id] for user_id in user_ids]


class Pseudonymizer:
    """Hash columns of user ids chunk by chunk; who comes again is not hashed again."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[str, str] = {}

    def __call__(self, user_ids: pl.Series) -> pl.Series:
        """Return the pseudonym of every id.

        >>> names = Pseudonymizer(bytes(32))(pl.Series(["alice", "bob", "alice"]))
        >>> names.to_list() == pseudonyms(["alice", "bob", "alice"], bytes(32))
        True
        """
        return map_distinct(user_ids, self._names)

    def _names(self, ids: list[str]) -> pl.Series:
        if len(self._known) + len(ids) > MAX_REMEMBERED:
            self._known.clear()
        names = list(map(self._known.get, ids))
        for place, name in enumerate(names):
            if name is None:
                names[place] = self._known[ids[place]] = pseudonym(ids[place], self._key)
        return pl.Series(names, dtype=pl.String)
