import hashlib
import json
import stat
import threading
import time
from pathlib import Path

import pytest

from cluster.serve.keys import (
    KeyEntry,
    KeyRing,
    Scope,
    add_key,
    ensure_admin_key,
    holder_of,
    key_hash,
    list_keys,
    revoke_key,
    rotate_key,
)
from rec.artifacts import write_json
from rec.errors import ArtifactError, ConfigError


def scope(workspace: Path, key: str) -> Scope | None:
    return held_scope(key, KeyRing(workspace))


def held_scope(key: str, ring: KeyRing) -> Scope | None:
    held = holder_of(key, ring.entries())
    return None if held is None else held.scope


def test_first_start_writes_a_private_admin_key(tmp_path: Path) -> None:
    key, is_new = ensure_admin_key(tmp_path)
    assert is_new
    assert (tmp_path / "admin.key").read_text().strip() == key
    for name in ("admin.key", "keys.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert scope(tmp_path, key) == "admin"
    assert scope(tmp_path, key + "x") is None
    assert scope(tmp_path, "") is None


def test_only_hashes_are_stored(tmp_path: Path) -> None:
    admin, _ = ensure_admin_key(tmp_path)
    reader = add_key(tmp_path, name="web", scope="read")
    text = (tmp_path / "keys.json").read_text()
    for key in (admin, reader):
        assert key not in text
        assert hashlib.sha256(key.encode()).hexdigest() in text
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_second_start_keeps_the_key_and_the_others(tmp_path: Path) -> None:
    key, _ = ensure_admin_key(tmp_path)
    reader = add_key(tmp_path, name="web", scope="read")
    assert ensure_admin_key(tmp_path) == (key, False)
    assert scope(tmp_path, key) == "admin"
    assert scope(tmp_path, reader) == "read"


def test_deleted_admin_key_is_replaced_and_the_old_one_refused(tmp_path: Path) -> None:
    old, _ = ensure_admin_key(tmp_path)
    (tmp_path / "admin.key").unlink()
    new, is_new = ensure_admin_key(tmp_path)
    assert is_new
    assert (scope(tmp_path, old), scope(tmp_path, new)) == (None, "admin")


def test_admin_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ensure_admin_key(tmp_path)
    (tmp_path / "admin.key").chmod(0o644)
    with pytest.raises(ArtifactError, match="chmod 600"):
        ensure_admin_key(tmp_path)


def test_ring_sees_new_and_revoked_keys(tmp_path: Path) -> None:
    ensure_admin_key(tmp_path)
    ring = KeyRing(tmp_path)
    assert len(ring.entries()) == 1
    key = add_key(tmp_path, name="web", scope="write")
    assert held_scope(key, ring) == "write"
    assert revoke_key(tmp_path, name="web") == KeyEntry(name="web", scope="write")
    assert held_scope(key, ring) is None
    (tmp_path / "keys.json").unlink()
    assert ring.entries() == {}


def test_names_are_listed_and_taken_once(tmp_path: Path) -> None:
    ensure_admin_key(tmp_path)
    add_key(tmp_path, name="web", scope="read")
    assert [(entry.name, entry.scope) for entry in list_keys(tmp_path)] == [
        ("admin", "admin"),
        ("web", "read"),
    ]
    for name in ("web", "admin", " "):
        with pytest.raises(ConfigError):
            add_key(tmp_path, name=name, scope="read")
    with pytest.raises(ConfigError, match=r"\(admin, web\), got 'nobody'"):
        revoke_key(tmp_path, name="nobody")


def test_keys_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    threads = [
        threading.Thread(
            target=add_key, args=(tmp_path,), kwargs={"name": f"key-{n}", "scope": "read"}
        )
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list_keys(tmp_path)) == 16


def test_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "keys.json", {key_hash("old"): "read", key_hash("root"): "admin"})
    assert scope(tmp_path, "old") == "read"
    add_key(tmp_path, name="web", scope="read")
    assert scope(tmp_path, "root") == "admin"
    rows = json.loads((tmp_path / "keys.json").read_text())
    old = {"name": key_hash("old")[:8], "scope": "read"}
    assert rows[key_hash("old")].items() >= old.items()


@pytest.mark.parametrize("name", ["web", "admin"])
def test_rotated_key_works_on_for_its_grace_and_no_longer(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, _ = ensure_admin_key(tmp_path)
    old = admin if name == "admin" else add_key(tmp_path, name=name, scope="write", per_minute=7)
    new = rotate_key(tmp_path, name=name, grace_s=60)
    ring = KeyRing(tmp_path)
    before, after = holder_of(old, ring.entries()), holder_of(new, ring.entries())
    assert before is not None
    assert after is not None
    assert (before.scope, before.per_minute) == (after.scope, after.per_minute)
    assert ensure_admin_key(tmp_path) == (new if name == "admin" else admin, False)
    assert scope(tmp_path, old) == before.scope
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert holder_of(old, ring.entries()) is None
    assert scope(tmp_path, new) == before.scope
    last = rotate_key(tmp_path, name=name, grace_s=0)
    assert scope(tmp_path, new) is None
    assert scope(tmp_path, last) == before.scope
    assert len(list_keys(tmp_path)) == (1 if name == "admin" else 2)


def test_what_cannot_be_rotated_or_limited_is_said(tmp_path: Path) -> None:
    ensure_admin_key(tmp_path)
    with pytest.raises(ConfigError, match="admin"):
        rotate_key(tmp_path, name="nobody", grace_s=0)
    with pytest.raises(ConfigError, match="grace"):
        rotate_key(tmp_path, name="admin", grace_s=-1)
    with pytest.raises(ConfigError, match="per-minute"):
        add_key(tmp_path, name="web", scope="read", per_minute=0)
