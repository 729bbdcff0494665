"""Routes about items."""

import asyncio
import logging
import time
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi import Path as InPath

from cluster.serve.answering import listed, milliseconds
from cluster.serve.calls import DEADLINE_S, UnavailableError
from cluster.serve.problems import new_request_id, request_id_of
from cluster.serve.schemas import ItemAnswer, ItemBody, ItemId, RecommendAnswer
from cluster.serve.state import GatewayState, State, retry_later
from cluster.serve.tracing import outgoing
from rec.ranking.feedback.item_changes import ItemChange
from rec.ranking.feedback.stores import LOG_ERRORS
from rec.ranking.item_rows import clean_item, render_item

router = APIRouter(tags=["items"])
_log = logging.getLogger(__name__)


@router.get("/v1/items/{item_id:path}/similar")
async def similar(
    state: State,
    item_id: Annotated[ItemId, InPath()],
    request: Request,
    k: Annotated[int, Query(ge=1, le=100)] = 10,
) -> RecommendAnswer:
    """Return the items nearest to one item."""
    if item_id not in state.known_items():
        raise _no_item(item_id)
    start = time.perf_counter()
    try:
        found = await state.ask_ranker(lambda: state.ranker.similar.remote(item_id, k, outgoing()))
    except UnavailableError as error:
        raise retry_later("the ranker is away") from error
    return RecommendAnswer(
        request_id=request_id_of(request),
        impression_id=new_request_id(),
        release=found.release,
        items=listed(found.items),
        degraded=list(found.degraded),
        timings_ms={"total": milliseconds(time.perf_counter() - start)},
    )


@router.put("/v1/items/{item_id:path}")
async def put_item(
    state: State, item_id: Annotated[ItemId, InPath()], body: ItemBody, request: Request
) -> ItemAnswer:
    """Add an item or replace it whole; durable before the answer.

    The next answer of every replica can hold it, by its text, and by its image embedding where the
    release sees images. It stays in force over the items' files in later releases.
    """
    values = {**body.model_dump(exclude_unset=True)}
    for reserved in ("item_id", "item_index"):
        values.pop(reserved, None)
    release = state.release
    item = clean_item(item_id, values, schema=release.schema, image_width=release.image_width)
    is_known = item_id in state.known_items()
    text = render_item(item, state.release.template)
    try:
        [embedding] = await state.encode([text], deadline_s=DEADLINE_S)
    except UnavailableError as error:
        raise retry_later(str(error)) from error
    await _store(
        state,
        ItemChange(
            item_id=item_id,
            timestamp_ms=time.time_ns() // 1_000_000,
            item=item,
            embedding=embedding,
            fingerprint=state.fingerprint,
        ),
    )
    return ItemAnswer(
        item_id=item_id,
        status="updated" if is_known else "created",
        request_id=request_id_of(request),
    )


@router.delete("/v1/items/{item_id:path}")
async def delete_item(
    state: State, item_id: Annotated[ItemId, InPath()], request: Request
) -> ItemAnswer:
    """Withdraw an item from every later answer; durable before this one."""
    if item_id not in state.known_items():
        raise _no_item(item_id)
    await _store(state, ItemChange(item_id=item_id, timestamp_ms=time.time_ns() // 1_000_000))
    return ItemAnswer(item_id=item_id, status="deleted", request_id=request_id_of(request))


async def _store(state: GatewayState, change: ItemChange) -> None:
    try:
        await asyncio.to_thread(state.changes.append, [change])
    except LOG_ERRORS as error:
        _log.exception("the event log refused an item")
        raise state.not_stored(error) from error


def _no_item(item_id: str) -> HTTPException:
    return HTTPException(404, f"no item {item_id!r} in the catalog")
