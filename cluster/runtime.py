"""Connect to Ray: once, with token authentication, on loopback.

The only file that calls ``ray.init``. Inside a submitted job, or where ``RAY_ADDRESS`` is set, the
running cluster is used; else a local one is started and stopped again.
"""

import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import haproxy
from cluster.resources import Profile
from rec.errors import ConfigError

MIN_RAY = (2, 60)
UNSAFE_SWITCHES = (
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
    "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE",
    "RAY_DATA_WEBDATASET_ALLOW_UNSAFE_DESERIALIZATION",
)
"""Settings with which a data file may run code; we refuse to start with them."""
SERVE_SWITCHES = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Only what was never sent is sent again: feedback with neither event_id nor timestamp is
    # stamped on arrival, so a replayed POST would count twice.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure",
    # 30 s by default, and waited for at every stop: one is enough for requests of milliseconds.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # A proxy that is not ready after 5 s, by default, is killed, and `serve` ends with it: HAProxy
    # and its manager took longer on two busy cores.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # Ray's workers step back (15) for everything else: on a machine that does anything else, a
    # replica would get a twentieth of a core.
    "RAY_worker_niceness": "0",
}
LOOPBACK = "127.0.0.2"
"""Loopback too, but not the name that Ray turns into the machine's public address."""
SELF = "127.0.0.1"
"""Where ``nextray up`` listens: the one address at which Ray binds nothing else."""
STAY_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Keeps Ray from turning that address into the machine's public one, on any system."""
PATIENCE = 15
"""Niceness of training: a twentieth of a core where somebody else wants it, all of it else."""
PRIVATE_PORTS = range(20_000, 30_000)


@contextmanager
def connect(profile: Profile) -> Iterator[None]:
    """Hold a connection to Ray; nested calls share the outermost one.

    Raises:
        ConfigError: Ray is too old, or one of its unsafe switches is set.
    """
    prepare_environment(os.environ)
    import ray  # a second of import that --help need not pay

    if ray.is_initialized():
        yield
        return
    check_ray(ray.__version__)
    address = os.environ.get("RAY_ADDRESS")
    logging.getLogger("ray").setLevel(logging.WARNING)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        ray.init(address=address, **quiet)
        yield
        ray.shutdown()
        return
    for name in haproxy.PORTS:
        os.environ[name] = str(free_port())
    with (
        tempfile.TemporaryDirectory(prefix="nextray-", ignore_cleanup_errors=True) as folder,
        _set(haproxy.on_loopback(Path(folder), os.environ)),
    ):
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=profile.object_store_bytes,
            _temp_dir=folder,
            _node_ip_address=LOOPBACK,
            **quiet,
        )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Hold environment variables, and leave them as they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def free_port() -> int:
    """Return a TCP port that nobody listens on now.

    Neither from the range that the system hands out nor from those of Ray's workers (10002 to
    19999) and of Serve's replicas (from 30000): who starts between now and then takes another one.
    """
    while True:
        port = PRIVATE_PORTS[secrets.randbelow(len(PRIVATE_PORTS))]
        if is_free("", port):
            return port


def is_free(host: str, port: int) -> bool:
    """Return whether a service could listen on an address now."""
    with socket.socket() as listener:
        # As servers do: a port whose last connections are still winding down is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
        return True


def prepare_environment(environment: MutableMapping[str, str]) -> None:
    """Set what Ray reads when it starts: the token, loopback, Serve's fast path, no statistics.

    Raises:
        ConfigError: an unsafe switch of Ray is set.
    """
    for name in UNSAFE_SWITCHES:
        if environment.get(name, "0") not in ("", "0", "false", "False"):
            raise ConfigError(f"{name} lets data files run code: unset it to start nextray")
    environment["RAY_AUTH_MODE"] = "token"
    ensure_token(environment)
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if environment.get("RAY_ADDRESS", "").startswith(f"{SELF}:"):
        environment.update(STAY_LOCAL)
    environment.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Waiting threads that spin starve the others where cores are few.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Workers import our packages from where the driver does.
    root = str(Path(__file__).resolve().parent.parent)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:
        environment["PYTHONPATH"] = os.pathsep.join(path for path in [root, *paths] if path)
    for name, value in SERVE_SWITCHES.items():
        environment.setdefault(name, value)


def step_back() -> None:
    """Let every process that answers requests go first; called by those that train.

    Ray's own way (``worker_niceness`` 15) would hold the replicas back as well.
    """
    os.nice(max(0, PATIENCE - os.nice(0)))


def ensure_token(environment: MutableMapping[str, str]) -> None:
    """Make sure a token exists and only its owner can read it: ``~/.ray/auth_token``."""
    if environment.get("RAY_AUTH_TOKEN"):
        return
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
        aside.replace(path)
    path.chmod(0o600)


def check_ray(version: str) -> None:
    """Refuse a Ray with known holes.

    Raises:
        ConfigError: the version is below 2.60.
    """
    parts = tuple(int(part) for part in version.split(".")[:2])
    if parts < MIN_RAY:
        raise ConfigError(
            f"expected Ray >= 2.60 (older ones run code of strangers), got {version}: upgrade it"
        )
