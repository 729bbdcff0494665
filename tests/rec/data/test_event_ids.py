import polars as pl
import pytest

from rec.data.cleaning import _event_ids
from rec.data.event_ids import content_event_id
from rec.data.events import EVENT_SCHEMA, Event

FLOATS = [0.0, -0.0, 1.0, 0.1, 1e16, 1e21, 1e-4, 1e-5, 2.5e-7, 5e-324, 1e300, 1 / 3, -1e-9]
EVENTS = [
    *(
        Event(user_id="u", event_type="rate", timestamp_ms=1, item_id="i", value=value)
        for value in FLOATS
    ),
    Event(user_id="用户", event_type="search", timestamp_ms=1_700_000_000_000, query="红 shoes"),
    Event(user_id="", event_type="view", timestamp_ms=-1, item_id="i", session_id="s"),
]


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_content_id_equals_what_cleaning_makes(event: Event) -> None:
    row = {name: [getattr(event, name)] for name in EVENT_SCHEMA.names}
    types = {"timestamp_ms": pl.Int64, "value": pl.Float64}
    schema = {name: types.get(name, pl.String) for name in EVENT_SCHEMA.names}
    assert _event_ids(pl.DataFrame(row, schema=schema))[0] == content_event_id(event)


def test_impression_does_not_enter_the_id_and_every_other_field_does() -> None:
    event = EVENTS[0]
    base = {name: getattr(event, name) for name in EVENT_SCHEMA.names}
    assert content_event_id(Event(**{**base, "impression_id": "m"})) == content_event_id(event)
    changes = {"user_id": "v", "item_id": "j", "event_type": "x", "timestamp_ms": 2, "value": 9.0}
    changes |= {"query": "q", "session_id": "s"}
    ids = {content_event_id(Event(**{**base, name: value})) for name, value in changes.items()}
    assert len(ids | {content_event_id(event)}) == len(changes) + 1
