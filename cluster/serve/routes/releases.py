"""Routes about the release that answers."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import APIRouter, HTTPException

from cluster.serve.calls import UnavailableError
from cluster.serve.schemas import CanaryAnswer, PromoteBody, ReleaseAnswer, SwitchAnswer
from cluster.serve.state import GatewayState, State, retry_later
from rec.errors import ArtifactError
from rec.ranking.canary import read_canary
from rec.ranking.current import read_current
from rec.ranking.following import check_release
from rec.stages import releasing

LOAD_WITHIN_S = 60.0
"""For the replica that tries a release; lists go on meanwhile."""
CONFLICT = 409
R = TypeVar("R")
router = APIRouter(tags=["release"])


@router.get("/v1/release", response_model_exclude_none=True)
async def get_release(state: State) -> ReleaseAnswer:
    """Return which release answers, and which canary answers a share of the users beside it."""
    release = state.release
    return ReleaseAnswer(
        release=release.name,
        items=len(state.known_items()),
        fingerprint=release.fingerprint,
        canary=_canary(state),
    )


@router.post("/v1/release/promote", response_model_exclude_none=True)
async def promote(state: State, body: PromoteBody | None = None) -> SwitchAnswer:
    """Make a release current: the named one, or the canary, or the newest evaluated index.

    With ``canary`` it answers that share of the users only, told by a keyed hash of their ids,
    beside the current one: to be judged by the metrics of each, then promoted or rolled back.
    Its files are compared with their sha256 and a replica loads it before anything changes; one
    that is damaged or of another encoder is refused (409) and the old one goes on. Each replica
    loads the new release aside and switches between two answers, so for some moments both answer,
    each list from one of them, by name.
    """
    named = body.release if body else None
    share = body.canary if body else None
    out = read_canary(read_current(state.workspace))
    if named is None and share is None and out is not None:
        named = out.release

    def find() -> str:
        return named or releasing.make_release(state.workspace).name

    name = await _or_conflict(find)

    def move() -> None:
        if share is None:
            releasing.point_current(state.workspace, name)
        else:
            releasing.start_canary(state.workspace, name, share=share)

    return await _switch(state, name, move)


@router.post("/v1/release/rollback", response_model_exclude_none=True)
async def rollback(state: State) -> SwitchAnswer:
    """End the canary where one is out; else make the release before the current one current again.

    That one is checked like any other.
    """
    before = state.release.name
    if "canary" in read_current(state.workspace):
        await _or_conflict(lambda: releasing.rollback(state.workspace))
        await asyncio.to_thread(state.releases.follow)
        return SwitchAnswer(release=state.release.name, previous=before)
    previous = read_current(state.workspace).get("previous", [])
    if not previous:
        raise HTTPException(CONFLICT, "there is no release before the current one")
    return await _switch(state, str(previous[0]), lambda: releasing.rollback(state.workspace))


async def _switch(state: GatewayState, name: str, move: Callable[[], object]) -> SwitchAnswer:
    """Try a release, then make it current; the answer comes when this replica has switched."""
    before = state.release.name

    def check() -> None:
        check_release(state.workspace, name, fingerprint=state.fingerprint)

    await _or_conflict(check)
    try:
        await state.ranker_calls.call(
            lambda: state.ranker.load_aside.remote(name), deadline_s=LOAD_WITHIN_S
        )
    except ArtifactError as error:
        raise HTTPException(CONFLICT, str(error)) from error
    except UnavailableError as error:
        raise retry_later(str(error)) from error

    def switch() -> None:
        move()
        state.releases.follow()

    await _or_conflict(switch)
    return SwitchAnswer(release=state.release.name, previous=before, canary=_canary(state))


def _canary(state: GatewayState) -> CanaryAnswer | None:
    canary = state.releases.canary
    if canary is None:
        return None
    return CanaryAnswer(release=canary.release, share=canary.share)


async def _or_conflict(work: Callable[[], R]) -> R:
    try:
        return await asyncio.to_thread(work)
    except ArtifactError as error:
        raise HTTPException(CONFLICT, str(error)) from error
