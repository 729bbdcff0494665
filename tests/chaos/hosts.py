"""Several hosts on one machine: network, process and mount namespaces, each with a Ray of its own.

A host has an address on a bridge, its own processes, temporary folder and ``/dev/shm``; it can lose
its power or its cable. The file system is shared, as a cluster's is. Needs root. What the hosts do
not have of their own: cores, kernel and clock.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.processes import PROC, descendants, kill, wait_until

ROOT = Path(__file__).parents[2]
UP_WITHIN_S, COMMAND_WITHIN_S = 180, 600
_INIT = """
import os, time
print("up", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.05)
"""
"""A host's first process: it reaps what is orphaned, as every init does."""
_TEMP = Path("/var/tmp/nr")
"""Each host's own; short, because names of Unix sockets are."""
_MOUNTS = f"mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs {_TEMP}"


def why_not() -> str:
    """Return why this machine cannot make hosts; empty where it can."""
    if os.getuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]
    return f"no command {', '.join(missing)}" if missing else ""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Be one machine of the rig."""

    name: str
    address: str
    pid: int
    """Its first process; all of them end with it."""
    link: str
    """The bridge's end of its cable."""
    environment: Mapping[str, str]

    def command(self, *words: str) -> list[str]:
        """Return words as a command that runs on this host, in the checkout."""
        return ["nsenter", f"--target={self.pid}", "--all", f"--wd={ROOT}", *words]

    def run(self, *words: str, within_s: float = COMMAND_WITHIN_S) -> str:
        """Run a command on this host and return what it prints on stdout.

        Raises:
            AssertionError: it failed; the message holds what it printed.
        """
        done = subprocess.run(
            self.command(*words),
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def attempt(self, *words: str) -> str:
        """Return what a command prints on stdout, whether it succeeds or not."""
        done = subprocess.run(
            self.command(*words),
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=COMMAND_WITHIN_S,
            check=False,
        )
        return done.stdout

    def start(self, *words: str, log: Path) -> "subprocess.Popen[bytes]":
        """Start a command on this host; what it prints goes to a file."""
        with log.open("wb") as stream:
            return subprocess.Popen(
                self.command(*words), env=dict(self.environment), stdout=stream, stderr=stream
            )

    def on_ray(self, head: "Host") -> "Host":
        """Return this host with an environment whose drivers connect to a head."""
        address = {"RAY_ADDRESS": f"{head.address}:6379"}
        return replace(self, environment={**self.environment, **address})

    def nextray(self, *words: str) -> str:
        """Run ``nextray WORDS`` on this host."""
        return self.run(sys.executable, "-m", "jobs.cli", *words)

    def processes(self) -> list[int]:
        """Return its living processes, as the machine numbers them."""
        return descendants(self.pid)

    def is_on(self) -> bool:
        """Return whether it has power."""
        return (PROC / str(self.pid)).exists()

    def power_off(self) -> None:
        """Cut its power: everything on it ends at once, and nobody is told."""
        self.unplug()
        kill(self.pid)
        wait_until(lambda: not self.is_on(), within_s=20, what="host gone")

    def unplug(self) -> None:
        """Take its cable out: nothing arrives and nothing leaves, its processes go on."""
        _ip("link", "set", self.link, "down")

    def plug(self) -> None:
        """Put its cable back."""
        _ip("link", "set", self.link, "up")


class Rig:
    """Hold the bridge and what stands around it.

    Attributes:
        folder: files that all hosts see.
        gateway: this process's own address among them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Other rigs may stand beside this one: a name and a subnet that nobody has.
        taken = _ip("-o", "addr")
        while (bridge := f"nr{secrets.token_hex(2)}") in taken:
            pass
        while (subnet := f"10.{64 + secrets.randbelow(64)}.{secrets.randbelow(256)}") in taken:
            pass
        self._subnet, self._bridge = subnet, bridge
        self.gateway = f"{self._subnet}.1"
        self._links: list[str] = []
        self._inits: list[subprocess.Popen[bytes]] = []
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        self.token = token
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def add(self) -> Host:
        """Return one more host, without a Ray."""
        number = len(self._links) + 2
        name = f"{self._bridge}n{number}"
        link = f"{self._bridge}v{number}"
        address = f"{self._subnet}.{number}"
        _ip("netns", "add", name)
        self._links.append(name)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", link, "master", self._bridge, "up")
        # No default route: what looks for the world outside is told at once that there is none.
        for words in (
            ("addr", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", name, *words)
        (self.folder / name).mkdir()
        return self._boot(name, address=address, link=link)

    def restart(self, host: Host) -> Host:
        """Return a host that was powered off, running again: same address and disk, no process."""
        host.plug()
        return self._boot(host.name, address=host.address, link=host.link)

    def _boot(self, name: str, *, address: str, link: str) -> Host:
        inner = f'{_MOUNTS} && hostname {name} && exec "$@"'
        init = subprocess.Popen(
            [
                *("ip", "netns", "exec", name, "unshare", "--pid", "--mount", "--uts", "--fork"),
                *("--kill-child", "--mount-proc", "bash", "-c", inner, "host"),
                *(sys.executable, "-c", _INIT),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._inits.append(init)
        assert init.stdout is not None
        assert init.stdout.readline() == b"up\n"
        (pid,) = descendants(init.pid)
        home = self.folder / name
        return Host(
            name=name, address=address, pid=pid, link=link, environment=self._environment(home)
        )

    def close(self) -> None:
        """End all hosts and take the network away."""
        for init in self._inits:
            for pid in descendants(init.pid):
                kill(pid)
            init.send_signal(signal.SIGKILL)
            init.wait()
        for name in self._links:
            _ip("netns", "del", name)
        _ip("link", "del", self._bridge)

    def _environment(self, home: Path) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RAY_") and name != "PYTHONPATH"
        }
        return kept | {
            "HOME": str(home),
            "TMPDIR": str(_TEMP),
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }


@contextmanager
def rig() -> Iterator[Rig]:
    """Give an empty rig; nothing of it is left afterwards."""
    _TEMP.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="nextray-rig-"))
    made = Rig(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def start_head(made: Rig, *, num_cpus: int = 0, keep_state: bool = False) -> Host:
    """Return a host with a head on which nothing runs but what Ray itself puts there."""
    host = made.add()
    start_ray_head(host, made, num_cpus=num_cpus, keep_state=keep_state)
    return host


def start_ray_head(host: Host, made: Rig, *, num_cpus: int = 0, keep_state: bool = False) -> None:
    """Run ``nextray up`` as head on a host."""
    state = ("--keep-state", str(made.folder / "head-state")) if keep_state else ()
    host.nextray("up", "--node-address", host.address, "--num-cpus", str(num_cpus), *state)


def start_worker(made: Rig, head: Host, *, num_cpus: int) -> Host:
    """Return a host whose Ray has joined the head's."""
    host = made.add()
    host.nextray(
        *("up", "--node-address", host.address, "--address", f"{head.address}:6379"),
        *("--num-cpus", str(num_cpus)),
    )
    return host


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout
