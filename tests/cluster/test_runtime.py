import socket
from pathlib import Path

import pytest
import ray

from cluster.runtime import (
    UNSAFE_SWITCHES,
    check_ray,
    ensure_token,
    free_port,
    is_free,
    prepare_environment,
)
from rec.errors import ConfigError


@pytest.mark.parametrize("name", UNSAFE_SWITCHES)
def test_unsafe_switch_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        prepare_environment({name: "1", "RAY_AUTH_TOKEN": "t"})


@pytest.mark.parametrize("name", UNSAFE_SWITCHES)
def test_unsafe_switch_is_one_that_this_ray_reads(name: str) -> None:
    """A name that Ray does not know would guard nothing."""
    sources = (Path(ray.__file__).parent / "data").rglob("*.py")
    assert any(name in path.read_text(encoding="utf-8") for path in sources)


def test_token_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "token"
    ensure_token({"RAY_AUTH_TOKEN_PATH": str(path)})
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text(encoding="utf-8")) == 64


def test_old_ray_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected Ray >= 2\.60"):
        check_ray("2.54.0")


def test_free_port_is_one_that_the_system_hands_to_nobody() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 19_999 < free_port() < min(30_000, lowest)


def test_port_in_use_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free("127.0.0.1", port)
    assert is_free("127.0.0.1", port)
