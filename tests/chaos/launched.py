"""``ray up`` and ``ray down`` with the on-premises variant, over SSH, on hosts of our own making.

What differs from the file that users get: addresses, user and key; and the packages, which the
hosts share with this machine instead of installing them (they reach no package index).
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tests.chaos.book import Figure
from tests.chaos.hosts import ROOT, Host, Rig, rig
from tests.processes import title, wait_until

SSHD = Path("/usr/sbin/sshd")
NUM_HOSTS = 3
UP_WITHIN_S, JOIN_WITHIN_S, DOWN_WITHIN_S = 300, 180, 60
STOP = ". ~/nextray/.venv/bin/activate && RAY_AUTH_MODE=token ray stop"
"""What ``ray-cluster.yaml`` says to run on the workers: ``ray down`` stops the head alone there."""
RAY_PROCESSES = ("raylet", "gcs_server", "ray::", "monitor.py", "dashboard")
JOBS = "http://127.0.0.1:8265/api/jobs/"
NODES = (
    "import ray; ray.init(address='auto', log_to_driver=False);"
    "print('joined', sum(node['Alive'] for node in ray.nodes()))"
)
MONITOR = "tail -n 60 /tmp/ray/session_latest/logs/monitor.log; cat /tmp/ray/*.state"


def why_not() -> str:
    """Return why nothing can be started over SSH here; empty where it can."""
    if SSHD.is_file() and shutil.which("rsync") is not None:
        return ""
    return "no sshd or rsync: apt-get install openssh-server rsync"


@dataclass(kw_only=True)
class Site:
    """Hold a rig on which nothing runs yet."""

    made: Rig
    is_spent: bool = False

    def ready(self) -> None:
        """Do nothing: the drill makes its hosts."""


@contextmanager
def site() -> Iterator[Site]:
    """Give a rig without hosts."""
    with rig() as made:
        yield Site(made=made)


def up_and_down(where: Site) -> Figure:
    """Start a head and two workers by ``ray up``, and stop them by ``ray down``."""
    where.is_spent = True
    made = where.made
    key = made.folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    hosts = [made.add() for _ in range(NUM_HOSTS)]
    for host in hosts:
        serve_ssh(host, made, key)
    config = made.folder / "cluster.yaml"
    config.write_text(yaml.safe_dump(on_premises(hosts, key)), encoding="utf-8")
    home = made.folder / "operator"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").touch(mode=0o600)
    (home / ".ray" / "auth_token").write_text(made.token.read_text())
    start = time.monotonic()
    ray(home, "up", "-y", "--no-config-cache", str(config))
    head = replace(hosts[0], environment={**hosts[0].environment, "RAY_AUTH_MODE": "token"})
    try:
        wait_until(
            lambda: f"joined {NUM_HOSTS}" in head.attempt(sys.executable, "-c", NODES),
            within_s=JOIN_WITHIN_S,
            what="all hosts have joined",
        )
    except AssertionError as error:
        raise AssertionError(f"{error}: {head.attempt('bash', '-c', MONITOR)}") from error
    elapsed = time.monotonic() - start
    assert all(ray_processes(host) for host in hosts)
    refused = head.attempt("curl", "-so", "/dev/null", "-w", "%{http_code}", JOBS)
    assert refused == "401", refused
    ray(home, "down", "-y", str(config))
    for worker in hosts[1:]:
        options = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
        shell = ("ssh", "-q", "-i", str(key), *options, f"root@{worker.address}")
        subprocess.run([*shell, STOP], check=True, capture_output=True, timeout=DOWN_WITHIN_S)
    try:
        wait_until(
            lambda: not any(ray_processes(host) for host in hosts),
            within_s=DOWN_WITHIN_S,
            what="nothing of Ray runs",
        )
    except AssertionError as error:
        left = [name[:100] for host in hosts for name in ray_processes(host)]
        raise AssertionError(f"{error}: {left}") from error
    return Figure(
        work=NUM_HOSTS, failures=0, recovery_s=elapsed, duplicates=0, lost=0, redone_share=0.0
    )


DRILLS: dict[str, Callable[[Site], Figure]] = {"ray_up": up_and_down}


def on_premises(hosts: list[Host], key: Path) -> dict[str, Any]:
    text = re.sub(r"(?m)^#on-premises# ", "", (ROOT / "ray-cluster.yaml").read_text())
    config: dict[str, Any] = yaml.safe_load(text)
    head, *workers = (host.address for host in hosts)
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    config["min_workers"] = config["max_workers"] = len(workers)
    config["setup_commands"] = [
        f"ln -sfn {sys.prefix} ~/nextray/.venv",
        # `ray down` finds no `ray` without them, and says nothing.
        *(line for line in config["setup_commands"] if "pip" not in line and "venv ~" not in line),
    ]
    return config


def serve_ssh(host: Host, made: Rig, key: Path) -> None:
    """Give a host its own home and let the key in."""
    home = made.folder / host.name
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh" / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    host_key = home / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key], check=True)
    steps = [f"mount --rbind {home} /root", "mkdir -p /run/sshd /tmp/ray"]
    python = Path(sys.base_prefix)
    if python.is_relative_to("/root"):  # the home that is about to be covered
        inside = home / python.relative_to("/root")
        inside.mkdir(parents=True)
        steps.insert(0, f"mount --bind {python} {inside}")
    steps += ["mount -t tmpfs t /tmp/ray", "chown root:root /root", "chmod 700 /root"]
    # Ray takes the address that a packet to the world would leave from: there has to be a way.
    device = "$(ip -o -4 route show | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | head -1)"
    steps.append(f"ip route replace default dev {device}")
    host.run("bash", "-c", " && ".join(steps))
    options = ("PermitRootLogin=prohibit-password", "UsePAM=no", f"HostKey={host_key}")
    flags = [word for option in options for word in ("-o", option)]
    host.run(str(SSHD), *flags, "-o", "AuthorizedKeysFile=/root/.ssh/authorized_keys")


def ray(home: Path, *words: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ray")), *words],
        cwd=ROOT,
        env=kept | {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=UP_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def ray_processes(host: Host) -> list[str]:
    titles = [title(pid) for pid in host.processes()]
    return [name for name in titles if any(mark in name for mark in RAY_PROCESSES)]
