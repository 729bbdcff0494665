"""Routes about what is held of a user: access, export, erasure. They need an admin key."""

import asyncio
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as InPath

from cluster.serve.problems import new_request_id
from cluster.serve.schemas import ErasureReceipt, UserAnswer, UserExport, UserId
from cluster.serve.state import GatewayState, State, retry_later
from rec.data.privacy import load_or_create_key
from rec.data.tombstones import add_tombstones, tombstones_of
from rec.errors import ArtifactError
from rec.ranking.event_log import UserRecords
from rec.ranking.feedback import LOG_ERRORS
from rec.stages.preparation import KEY_FILE

NOT_COVERED = (
    "events, sequences and releases that were built before: run `nextray erase RECIPE --user-id ID`"
)
router = APIRouter(tags=["users"])
_log = logging.getLogger(__name__)


@router.get("/v1/users/{user_id:path}/export")
async def export_user(state: State, user_id: Annotated[UserId, InPath()]) -> UserExport:
    """Return every row that the serving side holds of a user; empty for an unknown one."""
    held = await _read(state, user_id)
    return UserExport(
        user_id=user_id,
        events=[asdict(replace(event, user_id=user_id)) for event in held.events],
        impressions=[asdict(replace(shown, user_id=user_id)) for shown in held.impressions],
        history=[asdict(replace(event, user_id=user_id)) for event in held.base],
    )


@router.get("/v1/users/{user_id:path}")
async def get_user(state: State, user_id: Annotated[UserId, InPath()]) -> UserAnswer:
    """Return how much the serving side holds of a user; an unknown one is no error."""
    held = await _read(state, user_id)
    stamps = [event.timestamp_ms for event in (*held.events, *held.base)]
    return UserAnswer(
        user_id=user_id,
        events=len(held.events),
        impressions=len(held.impressions),
        history=len(held.base),
        first_ms=min(stamps, default=None),
        last_ms=max(stamps, default=None),
    )


@router.delete("/v1/users/{user_id:path}")
async def erase_user(state: State, user_id: Annotated[UserId, InPath()]) -> ErasureReceipt:
    """Delete what the serving side holds of a user, down to the bytes; return a receipt.

    A tombstone comes first, so that no later preparation brings the user back from the input files.
    Repeating it is harmless. The receipt says what other parts of a workspace need.
    """
    try:
        await asyncio.to_thread(_bury, state.workspace, user_id)
        erased = await asyncio.to_thread(state.log.erase_user, state.stored_id(user_id))
    except (*LOG_ERRORS, OSError, ArtifactError) as error:
        _log.exception("a user was not erased")
        raise retry_later("the event log is in use, nothing is promised: erase again") from error
    return ErasureReceipt(
        receipt_id=new_request_id(),
        user_id=user_id,
        erased_at_ms=time.time_ns() // 1_000_000,
        events=erased.events,
        impressions=erased.impressions,
        histories=erased.histories,
        not_covered=NOT_COVERED,
    )


def _bury(workspace: Path, user_id: str) -> None:
    """Write the tombstones of a user."""
    key = load_or_create_key(workspace / KEY_FILE)
    add_tombstones(workspace, tombstones_of([user_id], key))


async def _read(state: GatewayState, user_id: str) -> UserRecords:
    try:
        return await asyncio.to_thread(state.log.export_user, state.stored_id(user_id))
    except LOG_ERRORS as error:
        _log.exception("the records of a user cannot be read")
        raise retry_later("the event log cannot be read") from error
