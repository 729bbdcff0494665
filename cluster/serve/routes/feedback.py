"""The route that takes what users did."""

import logging
import time
from typing import Annotated

from fastapi import APIRouter, Body

from cluster.serve.event_reading import read_event
from cluster.serve.schemas import EventsAnswer, EventsBody, FeedbackEvent, Rejection
from cluster.serve.state import State
from rec.data.events import Event
from rec.ranking.feedback.stores import LOG_ERRORS

router = APIRouter(tags=["feedback"])
_log = logging.getLogger(__name__)


@router.post("/v1/events")
async def add_events(
    state: State,
    body: EventsBody | Annotated[list[FeedbackEvent], Body(min_length=1, max_length=1000)],
) -> EventsAnswer:
    """Store events; they are durable before the answer, and the next list reflects them.

    An event with an ``event_id`` may be sent again at will, it counts once. Without one its content
    is its id: a repeat counts once if it names the same ``timestamp``; without that either, the
    time of arrival is taken and a repeat is another event.
    """
    sent = body.events if isinstance(body, EventsBody) else body
    now_ms = time.time_ns() // 1_000_000
    known_items = state.known_items()
    events: list[Event] = []
    rejected: list[Rejection] = []
    for index, item in enumerate(sent):
        made = read_event(
            item,
            user_id=state.stored_id(item.user_id),
            known_items=known_items,
            now_ms=now_ms,
        )
        if isinstance(made, Event):
            events.append(made)
        else:
            rejected.append(Rejection(index=index, reason=made))
    accepted = duplicates = 0
    if events:
        try:
            accepted, duplicates = await state.commits.append(events)
        except LOG_ERRORS as error:
            _log.exception("the event log refused a group")
            raise state.not_stored(error) from error
    stored_ms = time.time_ns() // 1_000_000
    state.metrics.count_events(
        accepted=accepted,
        duplicates=duplicates,
        rejected=len(rejected),
        # Which of a group were repeats is not told; a group with one has no lag of its own.
        lags_s=() if duplicates else ((stored_ms - e.timestamp_ms) / 1000 for e in events),
    )
    if not duplicates:
        state.count_followed(events)
    return EventsAnswer(accepted=accepted, duplicates=duplicates, rejected=rejected)
