"""A real Redis server for tests: every write is synced before it is acknowledged."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.runtime import free_port
from tests.processes import wait_until

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(
    BINARY is None,
    reason="no redis-server or valkey-server here: apt-get install redis-server runs these too",
)


class RedisServer:
    """Hold a server's folder and port; it may be killed and started again."""

    def __init__(self, folder: Path, *, password: str | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self._password = password
        user = f":{password}@" if password else ""
        self.url = f"redis://{user}127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        words = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder)}
        words |= {"appendonly": "yes", "appendfsync": "always", "save": ""}
        # A search of the bytes must see them.
        words["rdbcompression"] = "no"
        words |= {"requirepass": self._password} if self._password else {}
        flags = [word for name, value in words.items() for word in (f"--{name}", value)]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen([str(BINARY), *flags, *options], stdout=log)
        wait_until(self._answers, within_s=10, what="the Redis server answers")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(timeout=10)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill(signal.SIGTERM)

    def raw_bytes(self) -> bytes:
        """Return everything that the server has on disk."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return b"".join(path.read_bytes() for path in files)

    def _answers(self) -> bool:
        from redis import Redis
        from redis.exceptions import RedisError

        try:
            with Redis(port=self.port, password=self._password) as client:
                return bool(client.ping())
        except RedisError:
            return False


@contextmanager
def running_redis(
    folder: Path, *options: str, password: str | None = None
) -> Iterator[RedisServer]:
    """Run a server while a block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(folder, password=password)
    server.start(*options)
    try:
        yield server
    finally:
        server.stop()
