"""Start and stop a Ray of our own that outlives the command: ``nextray up`` and ``nextray down``.

Every process of it carries a mark in its environment, which its children inherit: workers, replicas
and HAProxy too. So ``down`` finds what ``up`` started, whatever became of it, and touches nothing
else; ``ray stop`` would end every Ray of the user.
"""

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster import haproxy
from cluster.resources import Profile, object_store_bytes
from cluster.runtime import (
    SELF,
    STAY_LOCAL,
    check_ray,
    free_port,
    is_free,
    prepare_environment,
)
from rec.artifacts import write_json
from rec.errors import ConfigError

MARK = "NEXTRAY_CLUSTER"
"""Environment variable that every process of a cluster of ours carries."""
STATE_FILE = "cluster.json"
HEAD_PORT, DASHBOARD_PORT = 6379, 8265
"""Ray's own, where they are free: its commands find them without being told."""
_SIDE_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
)
"""What Ray would take from fixed places, where another Ray of the machine may be."""
_METRICS_PORTS = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
START_WITHIN_S = 120
ASK_S = 8.0
"""How long processes may take to end by themselves; then they are killed."""
KILL_S = 20.0
_ALL_HOSTS = ("0.0.0.0", "::")
_SEVERAL_HOSTS = {
    # Nodes wait so long for a lost head. After Ray's own 60 s they would end, and a head that came
    # back would find none of them.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    # A node without power tells nobody. Four silences of 5 s and it is given up: Ray's own five of
    # 10 s keep lost work waiting for a minute. A cable that is out for 10 s is forgiven.
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "4",
}
"""What a cluster of several machines reads beside its options."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Describe what ``up`` started on this machine."""

    mark: str
    address: str
    """``host:port`` that drivers and other nodes connect to."""
    dashboard: str
    """URL that jobs are submitted to; empty on a node that joined another head."""
    temp_folder: str
    pids: tuple[int, ...]
    """Processes that were there when it had started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """Say what ``down`` ended, and what it proved to be gone."""

    processes: int
    killed: int
    """Those that did not end when asked."""
    ports: tuple[int, ...]
    """What they listened on; free now."""


def start(
    profile: Profile,
    *,
    folder: Path,
    node_address: str = SELF,
    join: str | None = None,
    num_cpus: int | None = None,
    keep_state: Path | None = None,
) -> Cluster:
    """Start Ray on this machine: a head, or a node of the head at ``join``.

    Args:
        profile: bounds the object store.
        folder: where the state is kept; one cluster a folder.
        node_address: address that other nodes reach this one at; loopback keeps it to itself.
        join: ``host:port`` of a running head.
        num_cpus: cores that the node offers; those of the machine if absent.
        keep_state: where a head keeps what it knows, so that one that was lost and is started again
            finds its nodes and actors.

    Raises:
        ConfigError: one is up already, a node is to keep state, Ray is too old or unsafe, or it did
            not start.
    """
    if find(folder) is not None:
        raise ConfigError(f"a cluster is up already ({folder}): run `nextray down` first")
    if join is not None and keep_state is not None:
        raise ConfigError("--keep-state is the head's: leave it out where --address is given")
    # This process's own, before Ray is imported: it reads them once.
    prepare_environment(os.environ)
    environment = dict(os.environ)
    import ray  # a second of import that --help need not pay

    check_ray(ray.__version__)
    mark = secrets.token_hex(8)
    # Unix sockets lie in it, and their names must be short.
    temp = _temp_folder(keep_state)
    environment[MARK] = mark
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment |= {name: str(free_port()) for name in (*haproxy.PORTS, *_METRICS_PORTS)}
    environment |= haproxy.on_loopback(temp, environment)
    environment |= STAY_LOCAL if node_address == SELF else _several_hosts(node_address)
    if keep_state is not None:
        keep_state.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = str(keep_state.resolve())
        environment |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": state}
    environment.pop("RAY_ADDRESS", None)
    options = [
        f"--node-ip-address={node_address}",
        f"--object-store-memory={object_store_bytes(profile)}",
        "--disable-usage-stats",
        *(f"--{name}={free_port()}" for name in _SIDE_PORTS),
        *([] if num_cpus is None else [f"--num-cpus={num_cpus}"]),
    ]
    if join is None:
        port = _take(node_address, HEAD_PORT)
        dashboard_port = _take(SELF, DASHBOARD_PORT)
        address, dashboard = f"{node_address}:{port}", f"http://{SELF}:{dashboard_port}"
        options += [
            *("--head", f"--port={port}", f"--temp-dir={temp}"),
            *(f"--dashboard-host={SELF}", f"--dashboard-port={dashboard_port}"),
            f"--ray-client-server-port={free_port()}",
        ]
    else:
        address, dashboard = join, ""
        options.append(f"--address={join}")
    cluster = Cluster(
        mark=mark, address=address, dashboard=dashboard, temp_folder=str(temp), pids=()
    )
    # Written first: what a start that fails leaves behind is found by ``down`` too.
    _save(folder, cluster)
    try:
        _run_ray_start(options, environment)
    except ConfigError:
        stop(folder)
        raise
    pids = tuple(sorted(process.pid for process in processes(cluster)))
    cluster = Cluster(**{**asdict(cluster), "pids": pids})
    _save(folder, cluster)
    return cluster


def find(folder: Path) -> Cluster | None:
    """Return the cluster that was started from a folder, ``None`` where there is none."""
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    fields = json.loads(path.read_text(encoding="utf-8"))
    return Cluster(**{**fields, "pids": tuple(fields["pids"])})


def processes(cluster: Cluster) -> list[psutil.Process]:
    """Return the living processes of a cluster, jobs and replicas included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == cluster.mark and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:  # gone, a zombie, or another user's
            continue
    return found


def listening(of: Sequence[psutil.Process]) -> list[tuple[str, int]]:
    """Return the addresses and TCP ports on which processes listen."""
    found: set[tuple[str, int]] = set()
    for process in of:
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        found |= {
            (entry.laddr.ip, entry.laddr.port)
            for entry in connections
            if entry.status == psutil.CONN_LISTEN
        }
    return sorted(found)


def stop(folder: Path) -> Stopped | None:
    """End what was started from a folder, and prove that nothing of it is left.

    Returns:
        ``None`` where nothing was up.

    Raises:
        ConfigError: a process or a port is still there; the state is kept, so that it can be
            tried again.
    """
    cluster = find(folder)
    if cluster is None:
        return None
    own = processes(cluster)
    ports, before = listening(own), _listeners()
    for process in own:
        _signal(process.terminate)
    psutil.wait_procs(own, timeout=ASK_S)
    seen, killed = {process.pid for process in own}, set()
    deadline = time.monotonic() + KILL_S
    # Once more, and again: a dying raylet may have started workers meanwhile.
    while (left := processes(cluster)) and time.monotonic() < deadline:
        for process in left:
            killed.add(process.pid)
            _signal(process.kill)
        psutil.wait_procs(left, timeout=1)
    open_ports = [port for host, port in ports if not _is_released(host, port, before)]
    if left or open_ports:
        pids = ", ".join(str(process.pid) for process in left) or "none"
        raise ConfigError(
            f"expected nothing left of the cluster, found processes {pids} and ports "
            f"{open_ports or 'none'}: run `nextray down` again"
        )
    shutil.rmtree(cluster.temp_folder, ignore_errors=True)
    (folder / STATE_FILE).unlink(missing_ok=True)
    return Stopped(
        processes=len(seen | killed),
        killed=len(killed),
        ports=tuple(sorted({port for _, port in ports})),
    )


def _run_ray_start(options: Sequence[str], environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options]
    # A file, not a pipe: what Ray starts inherits it, and a pipe would stay open for ever.
    with tempfile.TemporaryFile() as log:
        try:
            code = subprocess.run(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=START_WITHIN_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"Ray did not start within {START_WITHIN_S} s: run `nextray doctor`, and try again "
                "when the machine is less busy"
            ) from error
        log.seek(0)
        text = log.read().decode(errors="replace")
    if code:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        cause = [*lines[-1:], *errors][-1] if lines else "it said nothing"
        raise ConfigError(f"Ray did not start ({cause}): run `nextray doctor`")


def _save(folder: Path, cluster: Cluster) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(folder / STATE_FILE, cluster)


def _several_hosts(node_address: str) -> dict[str, str]:
    """Return what a node that others reach reads beside its options.

    Training's processes find each other by the interface of that address. Left alone they take what
    the host's own name stands for, which on many systems is its loopback.
    """
    interfaces = (
        name
        for name, entries in psutil.net_if_addrs().items()
        if any(entry.address == node_address for entry in entries)
    )
    found = next(interfaces, None)
    return _SEVERAL_HOSTS | ({} if found is None else {"GLOO_SOCKET_IFNAME": found})


def _temp_folder(keep_state: Path | None) -> Path:
    """Return a new folder for Ray's files; the same one again where a head takes up its state."""
    if keep_state is None:
        return Path(tempfile.mkdtemp(prefix="nextray-up-"))
    name = hashlib.sha256(os.fsencode(keep_state.resolve())).hexdigest()[:8]
    path = Path(tempfile.gettempdir()) / f"nextray-up-{name}"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _take(host: str, port: int) -> int:
    return port if is_free(host, port) else free_port()


def _listeners() -> set[tuple[int | None, str, int]]:
    """Return the processes that listen on this machine, at which addresses and TCP ports."""
    return {
        (entry.pid, entry.laddr.ip.removeprefix("::ffff:"), entry.laddr.port)
        for entry in psutil.net_connections(kind="tcp")
        if entry.status == psutil.CONN_LISTEN
    }


def _is_released(host: str, port: int, before: Set[tuple[int | None, str, int]]) -> bool:
    """Return whether nobody who listened there ``before`` still does.

    Another Ray of the machine may take a port as soon as we have left it, and may have the same one
    at another address all the time.
    """
    host = "" if host in _ALL_HOSTS else host.removeprefix("::ffff:")
    deadline = time.monotonic() + ASK_S
    while not is_free(host, port):
        in_the_way = {
            entry
            for entry in _listeners()
            if entry[2] == port and (not host or entry[1] in (host, *_ALL_HOSTS))
        }
        if in_the_way and in_the_way.isdisjoint(before):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return
