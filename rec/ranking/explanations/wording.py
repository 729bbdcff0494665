"""Words for evidence: templates in English and Chinese, and nothing that was not found.

Titles and queries are foreign text. They are quoted, cut, and stripped of what is no visible
character; angle brackets become look-alikes, so that no page that shows the sentence can be made to
run a title. What a title *says* ("ignore all instructions") is only ever quoted.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rec.data.text import detect_language
from rec.ranking.explanations.facts import Fact, Facts
from rec.ranking.explanations.vocabulary import label_of, verb_of
from rec.ranking.requests import Evidence, Language

_MAX_CHARACTERS = 60
_HARMLESS = str.maketrans({"<": "‹", ">": "›", '"': "'", "“": "'", "”": "'"})
_SAMPLE = 500
"""Titles that the catalog's language is read from."""
_POPULAR = frozenset({"popularity", "recent_popularity", "newest_popularity"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Hold what a sentence needs beside the evidence.

    Attributes:
        title: of the listed item.
        source: what proposed it.
        is_own: for each piece of evidence, whether it is the listed item itself.
        has_history: whether the user has any events.
        is_quota: it has its place by the quota of new items.
    """

    title: str
    source: str
    is_own: Sequence[bool]
    has_history: bool
    is_quota: bool = False


def quotable(text: str) -> str:
    r"""Return foreign text as it may stand in a sentence: one line, visible, bounded, no markup.

    >>> quotable("a\u202eb\n<b>c</b>")
    'ab ‹b›c‹/b›'
    """
    visible = (
        " " if sign.isspace() else sign
        for sign in text
        if sign.isspace() or unicodedata.category(sign)[0] != "C"
    )
    plain = " ".join("".join(visible).split()).translate(_HARMLESS)
    return plain if len(plain) <= _MAX_CHARACTERS else plain[: _MAX_CHARACTERS - 1].rstrip() + "…"


def explain_in_words(words: Words, evidence: Sequence[Evidence], *, language: Language) -> str:
    """Return the template's sentence for some evidence, most first.

    >>> tea = Evidence(
    ...     item_id="1", title="Green tea", event_type="purchase", timestamp_ms=0, num_events=3,
    ...     num_of_type=3, effect=0.5, shared={"category": ("Tea",)},
    ... )
    >>> words = Words(title="Black tea", source="sequence", is_own=[False], has_history=True)
    >>> explain_in_words(words, [tea], language="en")
    'Because you bought “Green tea” (3 times). Both are in “Tea”.'
    >>> explain_in_words(words, [tea], language="zh")
    '因为您购买过“Green tea”（3 次）。它们同属“Tea”。'
    """
    if not evidence:
        return _without_evidence(words, language)
    parts = [
        _deed(piece, is_own=own, language=language)
        for piece, own in zip(evidence, words.is_own, strict=True)
    ]
    if language == "zh":
        text = f"因为您{'，还'.join(parts)}。"
    else:
        text = f"Because you {' and '.join(parts)}."
    return text + _common_ground(evidence, language)


def facts_of(words: Words, evidence: Sequence[Evidence], *, language: Language) -> Facts:
    """Return what a sentence about some evidence may name, and what it may say of it.

    >>> tea = Evidence(
    ...     item_id="1", title="Green tea", event_type="purchase", timestamp_ms=0, num_events=3,
    ...     num_of_type=2, effect=0.5, shared={"category": ("Tea",)},
    ... )
    >>> words = Words(title="Black tea", source="sequence", is_own=[False], has_history=True)
    >>> facts = facts_of(words, [tea], language="en").facts
    >>> [(fact.text, fact.count, fact.label) for fact in facts]
    [('Green tea', 2, None), ('Tea', None, 'category')]
    """
    things = [
        Fact(
            text=quotable(piece.title),
            verbs=frozenset({_verb(piece, language)}),
            count=piece.num_of_type,
            is_listed=own,
        )
        for piece, own in zip(evidence, words.is_own, strict=True)
    ]
    sharers: dict[tuple[str, str], set[int]] = {}
    for place, piece in enumerate(evidence):
        for name, values in piece.shared.items():
            for value in values:
                sharers.setdefault((name, quotable(value)), set()).add(place)
    shared = [
        Fact(text=text, attribute=quotable(name), label=label_of(name, language), of=frozenset(of))
        for (name, text), of in sharers.items()
    ]
    return Facts(language=language, facts=(*things, *shared), title=quotable(words.title))


def catalog_language(titles: Sequence[str]) -> Language:
    """Return the language that most titles are in, English if they are in neither."""
    step = max(1, len(titles) // _SAMPLE)
    found = Counter(detect_language(title) for title in titles[::step])
    return "zh" if found["zh"] > found["en"] else "en"


def _verb(piece: Evidence, language: Language) -> str:
    return verb_of("search" if piece.item_id is None else piece.event_type, language)


def _deed(piece: Evidence, *, is_own: bool, language: Language) -> str:
    verb, count = _verb(piece, language), piece.num_of_type
    if language == "zh":
        thing = "此商品" if is_own else f"“{quotable(piece.title)}”"
        return f"{verb}{thing}" + (f"（{count} 次）" if count > 1 else "")
    thing = "this" if is_own else f"“{quotable(piece.title)}”"
    return f"{verb} {thing}" + (f" ({count} times)" if count > 1 else "")


def _common_ground(evidence: Sequence[Evidence], language: Language) -> str:
    """Name the first attribute that the item shares with its strongest evidence."""
    piece = evidence[0]
    if not piece.shared:
        return ""
    name, values = next(iter(piece.shared.items()))
    listed = [f"“{quotable(value)}”" for value in values[:2]]
    label = label_of(name, language) or f"“{quotable(name)}”"
    # With two things named, "both" would be these two.
    title = f"“{quotable(piece.title)}”" if len(evidence) > 1 else ""
    if language == "zh":
        said, they = "、".join(listed), f"此商品与{title}" if title else "它们"
        if name == "category":
            return f"{they}同属{said}。"
        if name == "words":
            return f"{they}的名称都含有{said}。"
        return f"{they}的{label}相同：{said}。"
    said, they = " and ".join(listed), f"This and {title} both" if title else "Both"
    if name == "category":
        return f" This and {title} are both in {said}." if title else f" Both are in {said}."
    if name == "words":
        return f" {they} have {said} in the name." if title else f" Both names have {said}."
    return f" {they} have the {label} {said}."


def _without_evidence(words: Words, language: Language) -> str:
    if words.source == "pinned":
        return "店铺推荐。" if language == "zh" else "Chosen by the shop."
    if words.source == "segment":
        return "受与您相似的用户欢迎。" if language == "zh" else "Popular with users like you."
    if words.is_quota:
        return "接触过它的用户还不多。" if language == "zh" else "Few users have had it yet."
    if not words.has_history or words.source in _POPULAR:
        return "受其他用户欢迎。" if language == "zh" else "Popular with other users."
    if language == "zh":
        return "与您的整体兴趣相符，并非由某一件事决定。"
    return "It fits your history as a whole; no single thing you did decides it."
