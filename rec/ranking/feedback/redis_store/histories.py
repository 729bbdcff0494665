"""Histories on a server: as :mod:`rec.ranking.feedback.history` has them, one round trip each."""

import json
from collections.abc import Iterable, Sequence
from itertools import islice

from rec.data.events import Event
from rec.ranking.feedback.history import base_row, merge_history
from rec.ranking.feedback.redis_store import scripts
from rec.ranking.feedback.redis_store.connection import RedisConnection
from rec.ranking.feedback.redis_store.log import event_of, impression_of
from rec.ranking.lists.fatigue import ShownList

_USERS_PER_COMMAND = 1_000
"""Small enough that feedback is held up for milliseconds."""


class RedisHistories:
    """Return users' newest events."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def history(self, user_id: str, *, limit: int) -> list[Event]:
        """Return a user's newest ``limit`` events, oldest first; empty for an unknown user.

        Equal times keep their order: base before log, the log in order of arrival.
        """
        base, rows = self._connection.read(scripts.HISTORY, user_id, limit)
        newer = [base_row(event_of(row)) for row in reversed(rows)]
        return merge_history(user_id, json.loads(base) if base else (), newer, limit=limit)

    def shown_lists(self, user_id: str, *, limit: int) -> list[ShownList]:
        """Return the newest ``limit`` lists that a user was shown, newest first."""
        rows = self._connection.read(scripts.SHOWN, f"shown:{user_id}", limit)
        return [ShownList(list.timestamp_ms, list.item_ids) for list in map(impression_of, rows)]

    def load_base(
        self,
        histories: Iterable[tuple[str, Sequence[Event]]],
        *,
        release: str,
        ingested_through: int,
    ) -> int:
        """Replace the base; readers see the old one until the new one is whole.

        Arguments and answer are those of ``HistoryStore.load_base``.
        """
        connection = self._connection
        generation = connection.write_command("HINCRBY", connection.key("meta"), "generation", 1)
        connection.write_command("SADD", connection.key("generations"), generation)
        num_users = 0
        pairs = iter(histories)
        while block := list(islice(pairs, _USERS_PER_COMMAND)):
            connection.write_fields(
                f"base:{generation}",
                {
                    user_id: json.dumps([base_row(event) for event in events], ensure_ascii=False)
                    for user_id, events in block
                },
            )
            num_users += len(block)
        connection.write(scripts.FINISH_BASE, generation, release, ingested_through)
        return num_users

    def base_release(self) -> str | None:
        """Return the release whose base is loaded, or ``None`` where there is none."""
        found: str | None = self._connection.read_command(
            "HGET", self._connection.key("base"), "release"
        )
        return found
