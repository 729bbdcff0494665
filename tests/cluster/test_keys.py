import hashlib
import stat
from pathlib import Path

import pytest

from cluster.serve.keys import ensure_admin_key, key_hash, load_keys, scope_of
from rec.artifacts import write_json
from rec.errors import ArtifactError


def test_first_start_writes_a_private_admin_key(tmp_path: Path) -> None:
    key, is_new = ensure_admin_key(tmp_path)
    assert is_new
    assert (tmp_path / "admin.key").read_text().strip() == key
    for name in ("admin.key", "keys.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    keys = load_keys(tmp_path)
    assert scope_of(key, keys) == "admin"
    assert scope_of(key + "x", keys) is None
    assert scope_of("", keys) is None


def test_only_hashes_are_stored(tmp_path: Path) -> None:
    key, _ = ensure_admin_key(tmp_path)
    text = (tmp_path / "keys.json").read_text()
    assert key not in text
    assert hashlib.sha256(key.encode()).hexdigest() in text


def test_second_start_keeps_the_key_and_the_others(tmp_path: Path) -> None:
    key, _ = ensure_admin_key(tmp_path)
    keys = {**load_keys(tmp_path), key_hash("shop"): "read"}
    write_json(tmp_path / "keys.json", keys)
    assert ensure_admin_key(tmp_path) == (key, False)
    assert load_keys(tmp_path) == keys


def test_admin_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ensure_admin_key(tmp_path)
    (tmp_path / "admin.key").chmod(0o644)
    with pytest.raises(ArtifactError, match="chmod 600"):
        ensure_admin_key(tmp_path)
