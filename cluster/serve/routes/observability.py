"""The route that Prometheus reads; it needs a key that may read."""

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from cluster.serve.metrics import read_coverage
from cluster.serve.state import State
from rec.ranking.feedback.stores import LOG_ERRORS

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response)
async def get_metrics(state: State) -> Response:
    """Return what all replicas have counted and timed since ``serve`` started."""
    release, num_items = state.release.name, len(state.known_items())
    canary = state.releases.canary

    def read() -> bytes:
        try:
            coverage = read_coverage(state.log, num_items=num_items)
        except LOG_ERRORS as error:
            state.log_care.notice(error)
            coverage = None
        return state.metrics.text(
            release=release,
            num_items=num_items,
            coverage=coverage,
            canary=None if canary is None else (canary.release, canary.share),
        )

    return Response(await asyncio.to_thread(read), media_type=CONTENT_TYPE_LATEST)
