import dataclasses

import numpy as np

from cluster.serve.wire import pack, plain, ranked, unpack
from rec.data.events import Event
from rec.ranking.requests import Evidence, Explanation, RankedItem, RankedList, Request

EVENTS = (
    Event(user_id="anna", event_type="view", timestamp_ms=1_000, item_id="a", session_id="s"),
    Event(user_id="anna", event_type="search", timestamp_ms=2_000, query="red dress"),
)
ASKED = Request(
    history=EVENTS,
    k=7,
    exclude=frozenset({"b"}),
    filters={"colour": ("red", "blue")},
    exclude_seen=False,
    penalty_weight=0.5,
    diversity=0.25,
    explain=True,
    language="zh",
    exploration=0.125,
    request_class="home",
    seed=11,
    shown={"c": 3},
    query_embeddings={"red dress": np.ones(1, np.float32)},
    profile={"country": "fr"},
    candidates=("a", "c"),
)


def test_request_arrives_as_it_was_but_for_its_user() -> None:
    arrived = unpack(pack(ASKED))
    sent = dataclasses.asdict(ASKED)
    for event in sent["history"]:
        event |= {"user_id": "", "session_id": None}
    assert dataclasses.asdict(arrived) == sent
    assert b"anna" not in pack(ASKED)
    unset = dataclasses.asdict(Request())
    # Else a field that gets lost would pass for one that is there.
    assert all(sent[name] != value for name, value in unset.items())


def test_list_arrives_as_it_was() -> None:
    evidence = Evidence(
        item_id="a", title="A", event_type="view", timestamp_ms=1, num_events=2, num_of_type=1,
        effect=0.5,
    )  # fmt: skip
    items = tuple(
        RankedItem(
            item_id=name,
            title=name.upper(),
            position=place,
            score=1 / place,
            source="sequence",
            propensity=0.5 / place,
            terms={"relevance": 0.75, "popularity": -0.25},
            explanation=explanation,
        )
        for place, (name, explanation) in enumerate(
            [("a", None), ("b", Explanation(text="why", language="en", evidence=(evidence,)))], 1
        )
    )
    found = RankedList(items=items, degraded=("unknown_items",))
    assert ranked(plain("release-1", found)) == ("release-1", found)
