import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rec.data.privacy import load_or_create_key, pseudonym, pseudonyms
from rec.data.private_files import create_private_file
from rec.errors import ArtifactError


def test_key_is_created_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "workspace" / "pseudonym.key"
    key = load_or_create_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path) == key
    assert [file.name for file in path.parent.iterdir()] == ["pseudonym.key"]


def test_callers_at_the_same_time_get_one_key(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_or_create_key(path), range(32)))
    assert len(keys) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "pseudonym.key"
    load_or_create_key(path)
    path.chmod(mode)
    with pytest.raises(ArtifactError, match=f"chmod 600 {path}"):
        load_or_create_key(path)


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 31])
def test_damaged_key_is_refused_not_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pseudonym.key"
    create_private_file(path, text)
    with pytest.raises(ArtifactError, match="64 hex digits"):
        load_or_create_key(path)
    assert path.read_text() == text


def test_pseudonym_is_hmac_sha256() -> None:
    key = b"k" * 32
    expected = hmac.new(key, "用户".encode(), hashlib.sha256).hexdigest()[:32]
    assert pseudonym("用户", key) == expected
    assert pseudonyms(["用户", "b", "用户"], key) == [expected, pseudonym("b", key), expected]
