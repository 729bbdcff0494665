"""From a host of its own: what listens asks for the token, or hangs up."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.chaos.hosts import Host, Rig, rig, start_head, start_worker, why_not
from tests.chaos.ports import SILENT, Knock, knock, matrix

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"),
]
DASHBOARD = 8265
REFUSED = {SILENT, 400, 401, 403, 404, 405, 501}
"""What changes nothing: no HTTP at all, or a clear no."""


@dataclass(frozen=True, kw_only=True)
class Network:
    made: Rig
    head: Host
    worker: Host
    stranger: Host
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with rig() as made:
        head = start_head(made)
        worker = start_worker(made, head, num_cpus=1)
        right = made.token.read_text(encoding="utf-8")
        tokens = {"nobody": "", "wrong": secrets.token_hex(32), "right": right}
        yield Network(made=made, head=head, worker=worker, stranger=made.add(), tokens=tokens)


def test_strangers_on_the_network_reach_nothing(network: Network) -> None:
    tokens = {who: network.tokens[who] for who in ("nobody", "wrong")}
    for host in (network.head, network.worker):
        knocks = knock(network.stranger, host.address, tokens=tokens)
        print(f"\n{host.name}, from outside\n{matrix(knocks)}")  # noqa: T201
        assert len({one.port for one in knocks}) > 3
        assert DASHBOARD not in {one.port for one in knocks}
        assert [one for one in knocks if is_let_in(one)] == []


def is_let_in(one: Knock) -> bool:
    """Return whether somebody without the token changes something or sees jobs.

    Ray's metrics pages answer GET at any path: they hold counters alone.
    """
    return one.tells_jobs or (one.method != "GET" and one.code not in REFUSED)


def test_the_job_api_opens_to_the_right_token_alone(network: Network) -> None:
    knocks = knock(network.head, "127.0.0.1", tokens=network.tokens, ports=(DASHBOARD,))
    print(f"\nthe head, from within\n{matrix(knocks)}")  # noqa: T201
    jobs = {(one.who, one.method): one.code for one in knocks if one.path == "/api/jobs/"}
    for method in ("GET", "POST"):
        assert jobs["nobody", method] == 401
        assert jobs["wrong", method] == 403
    assert jobs["right", "GET"] == 200
    serve = {one.who: one.code for one in knocks if one.path.startswith("/api/serve")}
    assert (serve["nobody"], serve["wrong"]) == (401, 403)


def test_a_stranger_cannot_join_the_cluster(network: Network, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(network.tokens["wrong"], encoding="utf-8")
    environment = {**network.stranger.environment, "RAY_AUTH_TOKEN_PATH": str(token)}
    stranger = replace(network.stranger, environment={**environment, "RAY_AUTH_MODE": "token"})
    ray = str(Path(sys.executable).with_name("ray"))
    done = subprocess.run(
        stranger.command(ray, "start", f"--address={network.head.address}:6379"),
        env=dict(stranger.environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert not any("raylet" in line for line in stranger.attempt("ps", "-eo", "args").splitlines())
