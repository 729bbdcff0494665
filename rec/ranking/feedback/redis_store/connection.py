"""A connection to the server: what is demanded of it, and how its failures are named.

Two pools. Reads stand in the path of a request, so they give up soon and, once the server was
silent, are refused at once for a while: a gateway must not stand still because Redis does. Writes
and jobs wait longer.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.connection import AbstractConnection
from redis.exceptions import RedisError
from redis.retry import Retry

from rec.ranking.feedback.log_errors import LogUnavailableError
from rec.ranking.feedback.store_place import StorePlace

STORE_FORMAT = "1"
READ_WITHIN_S = 0.5
"""Hundreds of times what a read takes; a list without a history is better than one after it."""
WRITE_WITHIN_S = 10.0
"""A sync to a busy disk may take seconds, a large block of histories too."""
SILENT_FOR_S = 2.0
"""After a time-out, reads fail at once for so long."""
FORGET_WITHIN_S = 600.0
"""For the server to write its files anew: about 1 s per 100 MB."""
_POLL_S = 0.02
DEMANDS = {
    "appendonly": ("yes",),
    "appendfsync": ("always",),
    # None of our keys has an end, so a policy for those that have one leaves them alone.
    "maxmemory-policy": (
        "noeviction",
        *("volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"),
    ),
}
"""Settings of the server, with what is accepted for each; the first is what we name."""
Word = str | int | float


class RedisConnection:
    """Reach one workspace's keys on a server; safe for threads."""

    def __init__(self, place: StorePlace) -> None:
        """Connect, and look at once whether the server keeps what it is given.

        Raises:
            LogUnavailableError: it does not answer, has lost this workspace's data, or would
                acknowledge before its disk has a write, or throw data away.
        """
        self.place = place
        self.prefix = f"nextray:{{{place.namespace}}}:"
        self._reading = _client(place, READ_WITHIN_S)
        self._writing = _client(place, WRITE_WITHIN_S, is_demanding=True)
        self._scripts: dict[tuple[str, bool], Script] = {}
        self._silent_until = 0.0
        self._lock = threading.Lock()
        found = self.write_command("HGET", self.key("meta"), "format")
        if found is None:
            raise LogUnavailableError(
                f"{place.shown} holds nothing of this workspace ({place.namespace}), its data is "
                "lost or elsewhere: bring the server's files back, or delete feedback/store.json "
                "to begin with an empty log"
            )
        if found != STORE_FORMAT:
            raise LogUnavailableError(
                f"{place.shown} holds format {found}, this version reads {STORE_FORMAT}: install "
                "the version that wrote it"
            )

    @classmethod
    def create(cls, place: StorePlace, *, seq: int) -> "RedisConnection":
        """Begin a workspace's log on a server; its events count on from ``seq``."""
        with _translated(place), _client(place, WRITE_WITHIN_S, is_demanding=True) as client:
            key = f"nextray:{{{place.namespace}}}:meta"
            client.execute_command("HSET", key, "format", STORE_FORMAT, "seq", seq)
        return cls(place)

    def key(self, name: str) -> str:
        """Return the full name of one of the workspace's keys."""
        return self.prefix + name

    def read(self, script: str, *words: Word) -> Any:
        """Return what a script finds; soon or not at all.

        Raises:
            LogUnavailableError: the server fails or is silent.
        """
        return self._read(lambda: self._script(script, self._reading)([self.prefix], words))

    def read_command(self, *words: Word) -> Any:
        """Return what one command finds; raises as ``read``."""
        return self._read(lambda: self._reading.execute_command(*words))

    def write(self, script: str, *words: Word) -> Any:
        """Return what a script answers once its writes are synced to the server's disk.

        Raises:
            LogUnavailableError: the server fails or is silent. The write may be stored or not.
        """
        with _translated(self.place):
            return self._script(script, self._writing)([self.prefix], words)

    def write_command(self, *words: Word) -> Any:
        """Return what one command answers; raises as ``write``."""
        with _translated(self.place):
            return self._writing.execute_command(*words)

    def write_fields(self, key: str, fields: Mapping[str, str]) -> None:
        """Set fields of a hash; raises as ``write``."""
        pairs = [word for field in fields.items() for word in field]
        self.write_command("HSET", self.key(key), *pairs)

    def forget_deleted(self) -> None:
        """Make the server write its files anew, so that no byte of deleted rows is left in them.

        Raises:
            LogUnavailableError: it did not. The rows are gone for every reader, not their bytes.
        """
        with _translated(self.place):
            # Not at the same time: the server allows one child.
            self._wait_until_idle()
            self._writing.execute_command("BGREWRITEAOF")
            self._wait_until_idle()
            self._writing.execute_command("BGSAVE")
            self._wait_until_idle()
            info = self._persistence()
            if info["aof_last_bgrewrite_status"] != "ok" or info["rdb_last_bgsave_status"] != "ok":
                raise LogUnavailableError(
                    f"{self.place.shown} could not write its files anew, deleted rows are still in "
                    "them: look at the server's log and its disk, then run this again"
                )

    def close(self) -> None:
        """Close every connection."""
        self._reading.close()
        self._writing.close()

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + FORGET_WITHIN_S
        while True:
            info = self._persistence()
            busy = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
            if not any(int(info[name]) for name in busy):
                return
            if time.monotonic() > deadline:
                raise LogUnavailableError(
                    f"{self.place.shown} did not write its files anew within {FORGET_WITHIN_S:g} "
                    "s, deleted rows are still in them: run this again"
                )
            time.sleep(_POLL_S)

    def _persistence(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._writing.info("persistence")
        return found

    def _read(self, ask: Callable[[], Any]) -> Any:
        if time.monotonic() < self._silent_until:
            raise LogUnavailableError(f"{self.place.shown} did not answer a moment ago")
        try:
            with _translated(self.place):
                return ask()
        except LogUnavailableError:
            self._silent_until = time.monotonic() + SILENT_FOR_S
            raise

    def _script(self, text: str, client: "Redis") -> Script:
        with self._lock:
            name = (text, client is self._reading)
            if name not in self._scripts:
                self._scripts[name] = client.register_script(text)
            return self._scripts[name]


def _client(place: StorePlace, within_s: float, *, is_demanding: bool = False) -> "Redis":
    """Return a pool of connections; a demanding one asks each what the server promises."""
    return Redis.from_url(
        place.url,
        decode_responses=True,
        socket_timeout=within_s,
        socket_connect_timeout=min(within_s, 2.0),
        # Once: the server may have closed an idle connection. Every write may be repeated.
        retry=Retry(NoBackoff(), 1),
        redis_connect_func=_demand_durability if is_demanding else None,
    )


class _UnsafeError(RedisError):
    """Say that a server promises too little."""


def _demand_durability(connection: AbstractConnection) -> None:
    """Refuse a server that acknowledges before its disk has a write, or that evicts.

    Asked at every new connection, so also of a server that was started anew.
    """
    connection.on_connect()
    for name, accepted in DEMANDS.items():
        connection.send_command("CONFIG", "GET", name)
        answer = connection.read_response()
        # A mapping or a flat list of name and value, by the protocol's version.
        value = answer.get(name) if isinstance(answer, Mapping) else (*answer, None, None)[1]
        if value not in accepted:
            raise _UnsafeError(
                f"the event log expects `{name} {accepted[0]}`, the server has {value!r}: set it "
                "in redis.conf, an acknowledged event would not be safe otherwise"
            )


@contextmanager
def _translated(place: StorePlace) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise LogUnavailableError(f"{place.shown}: {error}") from error
