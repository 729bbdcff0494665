"""``ray up`` and ``ray down`` with the on-premises variant, over SSH, on hosts of our own making.

What differs from the file that users get: addresses, user and key; and the packages, which the
hosts share with this machine instead of installing them (they reach no package index).

It does not pass yet: the second worker has not joined after three minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chaos.hosts import ROOT, Host, Rig, rig, why_not
from tests.processes import title, wait_until

SSHD = Path("/usr/sbin/sshd")
UP_WITHIN_S, JOIN_WITHIN_S = 300, 180
RAY_PROCESSES = ("raylet", "gcs_server", "ray::", "monitor.py", "dashboard")
JOBS = "http://127.0.0.1:8265/api/jobs/"
NODES = (
    "import ray; ray.init(address='auto', log_to_driver=False);"
    "print('joined', sum(node['Alive'] for node in ray.nodes()))"
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"),
    pytest.mark.skipif(
        not SSHD.is_file() or shutil.which("rsync") is None,
        reason="no sshd or rsync: apt-get install openssh-server rsync",
    ),
]


@pytest.fixture
def made() -> Iterator[Rig]:
    with rig() as running:
        yield running


def test_ray_up_and_down_on_hosts_of_ones_own(made: Rig) -> None:
    key = made.folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    hosts = [made.add() for _ in range(3)]
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
    wait_until(
        lambda: "joined 3" in head.attempt(sys.executable, "-c", NODES),
        within_s=JOIN_WITHIN_S,
        what="all three hosts have joined",
    )
    print(f"\nray up: three hosts in {time.monotonic() - start:.0f} s")  # noqa: T201
    assert all(ray_processes(host) for host in hosts)
    refused = head.attempt("curl", "-so", "/dev/null", "-w", "%{http_code}", JOBS)
    assert refused == "401"
    ray(home, "down", "-y", str(config))
    wait_until(
        lambda: not any(ray_processes(host) for host in hosts),
        within_s=60,
        what=f"nothing of Ray runs: {[ray_processes(host) for host in hosts]}",
    )


def on_premises(hosts: list[Host], key: Path) -> dict[str, Any]:
    text = re.sub(r"(?m)^#on-premises# ", "", (ROOT / "ray-cluster.yaml").read_text())
    config: dict[str, Any] = yaml.safe_load(text)
    head, *workers = (host.address for host in hosts)
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    config["min_workers"] = config["max_workers"] = len(workers)
    config["setup_commands"] = [
        "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token",
        f"ln -sfn {sys.prefix} ~/nextray/.venv",
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
