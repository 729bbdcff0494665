"""A user's sequence as one sentence: the article's example, the newest events, the same space."""

import numpy as np
import polars as pl
import pytest

from rec.data.sequences import Sequences, build_sequences
from rec.encoders import Encoder, EncoderConfig, EncoderSpec, load_encoder
from rec.encoders.encoder import make_spec
from rec.encoders.prompts import PROMPTS
from rec.encoders.sequence_text import embed_sequences_as_text, render_newest, render_sequence

TITLES = ["red dress", "blue coat", "desk lamp", "红色连衣裙"]


@pytest.fixture(scope="module")
def spec() -> EncoderSpec:
    return make_spec(EncoderConfig(model="hashing", max_tokens=16))


@pytest.fixture(scope="module")
def encoder(spec: EncoderSpec) -> Encoder:
    return load_encoder(spec)


def sequences_of(*users: list[tuple[str, str | None, str | None]]) -> Sequences:
    rows = [
        {
            "user_id": f"u{user}", "item_id": item, "event_type": kind, "query": query,
            "timestamp_ms": 1_700_000_000_000 + place,
        }
        for user, events in enumerate(users)
        for place, (kind, item, query) in enumerate(events)
    ]  # fmt: skip
    schema = {"item_id": pl.String, "query": pl.String}
    return build_sequences(
        pl.DataFrame(rows, schema_overrides=schema),
        item_ids=["0", "1", "2", "3"],
        queries=["office"],
        event_type_names=["purchase", "search", "view"],
    )


def test_event_type_without_a_verb_is_named_as_it_is() -> None:
    text = render_sequence([("teleport", "Mars")], language="en")
    assert text == "The user teleport Mars."


def test_order_and_repeats_stay() -> None:
    events = [("view", "a"), ("cart", "b"), ("view", "a")]
    text = render_sequence(events, language="zh")
    assert text == "用户浏览了a；加购了b；浏览了a。"


def test_decoder_is_asked_for_what_comes_next() -> None:
    text = render_sequence([("view", "a")], language="en", prompt=PROMPTS["causal"])
    assert text == "The user viewed a. Next, the user wants:"


def test_no_event_is_no_text() -> None:
    assert render_sequence([], language="en") == ""


@pytest.mark.parametrize("max_tokens", [5, 8, 20])
def test_long_sequence_keeps_the_newest_events(encoder: Encoder, max_tokens: int) -> None:
    events = [("view", f"thing{number}") for number in range(100)]
    text = render_newest(events, encoder.count_tokens, max_tokens=max_tokens, language="en")
    # Three words of the frame, one of each event.
    kept = max_tokens - 3
    assert text == f"The user viewed {', '.join(f'thing{n}' for n in range(100 - kept, 100))}."


def test_one_event_is_rendered_even_if_it_does_not_fit(encoder: Encoder) -> None:
    text = render_newest(
        [("view", "a b c d e f")], encoder.count_tokens, max_tokens=4, language="en"
    )
    assert text == "The user viewed a b c d e f."


def test_embedding_is_that_of_the_rendered_text(encoder: Encoder, spec: EncoderSpec) -> None:
    sequences = sequences_of(
        [("view", "0", None), ("search", None, "office"), ("purchase", "2", None)],
        [("view", "3", None)],
    )
    found = embed_sequences_as_text(encoder, spec, sequences, titles=TITLES)
    expected = encoder.encode(
        ['The user viewed red dress; searched for "office"; bought desk lamp.',
         "用户浏览了红色连衣裙。"]
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_user_without_events_is_zero(encoder: Encoder, spec: EncoderSpec) -> None:
    sequences = sequences_of([("view", "0", None)], [("view", "1", None)])
    empty = sequences.select_events(np.asarray([True, False]))
    found = embed_sequences_as_text(encoder, spec, empty, titles=TITLES)
    assert np.linalg.norm(found[0]) == pytest.approx(1)
    assert not found[1].any()


def test_old_events_beyond_the_limit_change_nothing(encoder: Encoder, spec: EncoderSpec) -> None:
    newest = [("view", "1", None)] * 40
    short = embed_sequences_as_text(encoder, spec, sequences_of(newest), titles=TITLES)
    long = embed_sequences_as_text(
        encoder, spec, sequences_of([("view", "2", None)] * 9 + newest), titles=TITLES
    )
    np.testing.assert_allclose(short, long, atol=1e-6)
    assert encoder.num_truncated == 0
