"""Routes about what is held of a user: access, export, erasure. They need an admin key."""

import asyncio
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi import Path as InPath

from cluster.serve.calls import TEXT_DEADLINE_S, UnavailableError
from cluster.serve.schemas import (
    ErasureReceipt,
    ErasureState,
    InterestsAnswer,
    UserAnswer,
    UserExport,
    UserId,
)
from cluster.serve.state import GatewayState, State, retry_later
from rec.data.privacy import load_or_create_key
from rec.data.tombstones import add_tombstones, tombstones_of
from rec.errors import ArtifactError
from rec.ranking.feedback.event_log import UserRecords
from rec.ranking.feedback.stores import LOG_ERRORS
from rec.ranking.requests import Language
from rec.stages.erasure_request import PENDING, read_erasure
from rec.stages.preparation import KEY_FILE

ERASED_WITHIN_S = 5.0
"""A small workspace is done by then; who has a large one looks again."""
_LOOK_AGAIN_S = 0.05
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
async def get_user(
    state: State,
    user_id: Annotated[UserId, InPath()],
    language: Annotated[Language | None, Query()] = None,
) -> UserAnswer:
    """Return what the serving side holds of a user, and what their newest events are about.

    An unknown user is no error. The summary is in the catalog's language unless another is asked
    for.
    """
    held = await _read(state, user_id)
    stamps = [event.timestamp_ms for event in (*held.events, *held.base)]
    return UserAnswer(
        user_id=user_id,
        events=len(held.events),
        impressions=len(held.impressions),
        history=len(held.base),
        first_ms=min(stamps, default=None),
        last_ms=max(stamps, default=None),
        interests=await _interests(state, user_id, language),
    )


@router.delete("/v1/users/{user_id:path}", responses={202: {"model": ErasureReceipt}})
async def erase_user(
    state: State, user_id: Annotated[UserId, InPath()], answer: Response
) -> ErasureReceipt:
    """Delete all that is held of a user, down to the bytes; return a receipt.

    A tombstone comes first, so that no later preparation brings the user back from the input files,
    then the event log, both before the answer. The workspace's events, sequences, embeddings and
    feedback follow in a process of their own: 200 where that has ended, 202 where it goes on and
    ``follow`` tells its end. Repeating it is harmless.
    """
    try:
        await asyncio.to_thread(_bury, state.workspace, user_id)
        erased = await asyncio.to_thread(state.log.erase_user, state.stored_id(user_id))
        erasure_id = await asyncio.to_thread(state.eraser.ask, user_id)
    except (*LOG_ERRORS, OSError, ArtifactError) as error:
        _log.exception("a user was not erased")
        raise retry_later("the event log is in use, nothing is promised: erase again") from error
    reached = await _erasure(state, erasure_id)
    deadline = time.monotonic() + ERASED_WITHIN_S
    while reached.state == PENDING and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_AGAIN_S)
        reached = await _erasure(state, erasure_id)
    if reached.state == PENDING:
        answer.status_code = 202
    return ErasureReceipt(
        **reached.model_dump(),
        user_id=user_id,
        events=erased.events,
        impressions=erased.impressions,
        histories=erased.histories,
        follow=f"/v1/erasures/{erasure_id}",
    )


@router.get("/v1/erasures/{erasure_id}")
async def get_erasure(
    state: State, erasure_id: Annotated[str, InPath(pattern=r"^[0-9a-f]{16}$")]
) -> ErasureState:
    """Return how far an erasure is; it names no user."""
    return await _erasure(state, erasure_id)


async def _erasure(state: GatewayState, erasure_id: str) -> ErasureState:
    found = await asyncio.to_thread(read_erasure, state.workspace, erasure_id)
    if found is None:
        raise HTTPException(404, f"no erasure {erasure_id!r}")
    return ErasureState(
        erasure_id=erasure_id,
        state=found["state"],
        at_ms=found["at_ms"],
        receipt=found.get("receipt"),
    )


async def _interests(
    state: GatewayState, user_id: str, language: Language | None
) -> InterestsAnswer | None:
    """Return what a user's newest events are about; what is held is told without it too."""
    try:
        history = await state.read_history(state.stored_id(user_id), ())
        _, found = await state.text_calls.call(
            lambda: state.ranker.interests.remote(history, language), deadline_s=TEXT_DEADLINE_S
        )
    except (UnavailableError, HTTPException, *LOG_ERRORS):
        _log.warning("the interests of a user cannot be told")
        return None
    return InterestsAnswer(**asdict(found))


def _bury(workspace: Path, user_id: str) -> None:
    """Write the tombstones of a user."""
    key = load_or_create_key(workspace / KEY_FILE)
    add_tombstones(workspace, tombstones_of([user_id], key))


async def _read(state: GatewayState, user_id: str) -> UserRecords:
    try:
        return await asyncio.to_thread(state.log.export_user, state.stored_id(user_id))
    except LOG_ERRORS as error:
        state.log_care.notice(error)
        _log.exception("the records of a user cannot be read")
        raise retry_later("the event log cannot be read") from error
