"""Sequences as text: ``e_u = LLM(sequence rendered as text)``, the article's formula.

A user's events become one sentence in the user's language, oldest first. Where it would be longer
than the encoder reads, the oldest events are left out: what a user did last says most.

Shapes: U users, L events of a user, D width.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.encoders.encoder import EncoderSpec
from rec.encoders.languages import script_shares
from rec.encoders.prompts import PROMPTS, Prompt
from rec.encoders.protocol import Encoder

Language = Literal["en", "zh"]
_VERBS: dict[Language, dict[str, str]] = {
    "en": {
        "view": "viewed", "search": "searched for", "cart": "put into the cart",
        "purchase": "bought", "rate": "rated", "like": "liked", "share": "shared",
        "read": "read", "play": "played", "click": "clicked on",
    },
    "zh": {
        "view": "浏览了", "search": "搜索了", "cart": "加购了", "purchase": "购买了",
        "rate": "评价了", "like": "点赞了", "share": "分享了", "read": "阅读了",
        "play": "播放了", "click": "点击了",
    },
}  # fmt: skip
_JOINS: dict[Language, tuple[str, str]] = {"en": (", ", "; "), "zh": ("、", "；")}
_QUOTES: dict[Language, str] = {"en": '"{}"', "zh": "“{}”"}
_MIXED = 0.5
"""Share of Chinese titles from which a history is rendered in Chinese."""


def render_sequence(
    events: Sequence[tuple[str, str]], *, language: Language, prompt: Prompt = PROMPTS["plain"]
) -> str:
    """Return one sentence for ``(event_type, title or query)`` events, oldest first.

    Neighbours of one event type share a verb; a type without a verb here is named as it is.
    Without events there is nothing to say and the text is empty.

    >>> history = [("view", "goods 1"), ("view", "goods 2"), ("view", "goods 3"),
    ...            ("search", "fashion"), ("search", "outfits")]
    >>> render_sequence(history, language="en")
    'The user viewed goods 1, goods 2, goods 3; searched for "fashion", "outfits".'
    >>> history = [("view", "商品1"), ("view", "商品2"), ("view", "商品3"),
    ...            ("search", "时尚"), ("search", "穿搭")]
    >>> render_sequence(history, language="zh")
    '用户浏览了商品1、商品2、商品3；搜索了“时尚”、“穿搭”。'

    Source: article, the example of a user's sequence.
    """
    if not events:
        return ""
    inner, outer = _JOINS[language]
    parts = []
    for event_type, group in groupby(events, key=lambda event: event[0]):
        verb = _VERBS[language].get(event_type, event_type)
        frame = _QUOTES[language] if event_type == "search" else "{}"
        names = inner.join(frame.format(text) for _, text in group)
        parts.append(f"{verb} {names}" if language == "en" else f"{verb}{names}")
    return prompt.sequence[language].format(events=outer.join(parts))


def render_newest(
    events: Sequence[tuple[str, str]],
    count_tokens: Callable[[Sequence[str]], Sequence[int]],
    *,
    max_tokens: int,
    language: Language,
    prompt: Prompt = PROMPTS["plain"],
) -> str:
    """Return the sentence of the most events, counted from the newest, that fit.

    One event is always rendered, even if the encoder then has to cut it.
    """
    low, high = 1, len(events)
    while low < high:  # the longest tail that fits lies in low..high
        middle = (low + high + 1) // 2
        text = render_sequence(events[-middle:], language=language, prompt=prompt)
        if count_tokens([text])[0] <= max_tokens:
            low = middle
        else:
            high = middle - 1
    return render_sequence(events[-low:], language=language, prompt=prompt)


def render_history(
    sequences: Sequences,
    own: slice,
    *,
    names: Sequence[str],
    count_tokens: Callable[[Sequence[str]], Sequence[int]],
    max_tokens: int,
    language: Language | None = None,
    prompt: Prompt = PROMPTS["plain"],
) -> str:
    """Return the sentence of some neighbouring events of one user, the newest that fit.

    Args:
        sequences: holds the events.
        own: which of them.
        names: text of each token: padding, items, queries.
        count_tokens: of the encoder that will read it.
        max_tokens: what that one reads.
        language: of the sentence; the one of most of the events' texts if absent.
        prompt: frame of the encoder's family.
    """
    events = [
        (sequences.event_type_names[code], names[token])
        for code, token in zip(sequences.event_types[own], sequences.tokens[own], strict=True)
    ]
    return render_newest(
        events,
        count_tokens,
        max_tokens=max_tokens,
        language=language or _language([text for _, text in events]),
        prompt=prompt,
    )


def embed_sequences_as_text(
    encoder: Encoder,
    spec: EncoderSpec,
    sequences: Sequences,
    *,
    titles: Sequence[str],
    language: Language | None = None,
) -> NDArray[np.float32]:
    """Return e_u, float32 ``(U, D)``, L2-normalised; zeros for a user without events.

    Args:
        encoder: the encoder of the items, so that users and items share a space.
        spec: its specification.
        sequences: the users' events.
        titles: text of each item, by item index from 1.
        language: of the sentence; the one of most of a user's titles if absent.
    """
    prompt = PROMPTS[spec.prompt]
    out = np.zeros((sequences.num_users, encoder.width), dtype=np.float32)
    # No tokenizer makes more than one event of a token: older ones can never fit.
    newest = sequences.newest(spec.max_tokens)
    names = ("", *titles, *newest.queries)
    rows = np.flatnonzero(newest.lengths > 0)
    texts = [
        render_history(
            newest,
            slice(int(newest.offsets[row]), int(newest.offsets[row + 1])),
            names=names,
            count_tokens=encoder.count_tokens,
            max_tokens=spec.max_tokens,
            language=language,
            prompt=prompt,
        )
        for row in rows
    ]
    out[rows] = encoder.encode(texts)
    return out


def _language(texts: Sequence[str]) -> Language:
    return "zh" if script_shares(texts).get("han", 0.0) >= _MIXED else "en"
