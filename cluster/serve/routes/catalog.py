"""Routes about items."""

import time
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi import Path as InPath

from cluster.serve.answering import listed, milliseconds
from cluster.serve.calls import UnavailableError
from cluster.serve.problems import new_request_id, request_id_of
from cluster.serve.schemas import ItemId, RecommendAnswer
from cluster.serve.state import State, retry_later

router = APIRouter(tags=["items"])


@router.get("/v1/items/{item_id:path}/similar")
async def similar(
    state: State,
    item_id: Annotated[ItemId, InPath()],
    request: Request,
    k: Annotated[int, Query(ge=1, le=100)] = 10,
) -> RecommendAnswer:
    """Return the items nearest to one item."""
    if item_id not in state.release.item_ids:
        raise HTTPException(404, f"no item {item_id!r} in the catalog")
    start = time.perf_counter()
    try:
        found = await state.ask_ranker(lambda: state.ranker.similar.remote(item_id, k))
    except UnavailableError as error:
        raise retry_later("the ranker is away") from error
    return RecommendAnswer(
        request_id=request_id_of(request),
        impression_id=new_request_id(),
        release=state.release.name,
        items=listed(found.items),
        degraded=[],
        timings_ms={"total": milliseconds(time.perf_counter() - start)},
    )
