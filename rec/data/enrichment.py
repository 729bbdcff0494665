"""Generated item fields by rules, and the check that a generated text invents nothing.

The rules only quote: a summary is the item's own words, tags are words of it. They are the
reference, and what is used wherever a language model's answer does not hold against the source.

Flaw: the sentiment is a count of words from a short list with negation; irony escapes it.
"""

import re
from collections import Counter
from dataclasses import dataclass

from rec.data.lexical import lexical_tokens
from rec.data.text import Language, detect_language

RULES_VERSION = 1
NUM_TAGS = 5
MAX_SUMMARY_CHARACTERS = 160
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_STEM = 4
"""Letters that two forms of one word share at least: dress, dresses; read, reading."""
_GOOD_WORDS = (
    "good great excellent amazing wonderful love loved lovely perfect happy beautiful best enjoy "
    "recommend comfortable 好 很好 喜欢 满意 优秀 完美 漂亮 推荐 开心 舒适 精彩 好看 不错 棒"
)
_BAD_WORDS = (
    "bad poor terrible awful horrible hate hated worst broken disappointing disappointed ugly "
    "useless refund 差 很差 糟糕 失望 讨厌 难看 坏 垃圾 退货 无聊 难用 后悔"
)
_NOT_WORDS = "not no never without isn't wasn't don't doesn't didn't 不 没 没有 无 非"
_GOOD, _BAD, _NOT = (frozenset(words.split()) for words in (_GOOD_WORDS, _BAD_WORDS, _NOT_WORDS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Hold what an item says of itself."""

    title: str
    text: str
    category: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def whole(self) -> str:
        """Return all of it, one field a line."""
        fields = (self.title, ", ".join(self.category), ", ".join(self.tags), self.text)
        return "\n".join(field for field in fields if field)


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrichment:
    """Hold an item's generated fields and who made each: ``rules``, or a language model."""

    summary: str
    tags: tuple[str, ...]
    language: Language
    sentiment: str
    """``positive``, ``negative`` or ``neutral``."""
    summary_by: str = "rules"
    tags_by: str = "rules"
    sentiment_by: str = "rules"


def enrich_by_rules(source: Source) -> Enrichment:
    """Return the generated fields of an item, in its own words.

    >>> found = enrich_by_rules(Source(title="Red dress", category=("dresses",), tags=(),
    ...     text="A perfect summer dress. Made of cotton."))
    >>> found.summary, found.tags, found.sentiment
    ('A perfect summer dress.', ('dresses', 'dress', 'red', 'perfect', 'summer'), 'positive')

    Raises:
        ConfigError: the item is Chinese and jieba (extra ``zh``) is not installed.
    """
    language = detect_language(source.whole)
    first = _SENTENCE.split(source.text.strip(), maxsplit=1)[0] or source.title
    if not first:
        first = ", ".join(source.category)
    return Enrichment(
        summary=_cut(first),
        tags=_tags(source, language),
        language=language,
        sentiment=sentiment_of(source.whole, language=language),
    )


def sentiment_of(text: str, *, language: Language) -> str:
    """Return ``positive``, ``negative`` or ``neutral`` by the words of a text.

    >>> sentiment_of("Not a good phone", language="en"), sentiment_of("A phone", language="en")
    ('negative', 'neutral')
    """
    score, words = 0, lexical_tokens(text, language=language)
    for place, word in enumerate(words):
        value = (word in _GOOD) - (word in _BAD)
        is_denied = any(before in _NOT for before in words[max(0, place - 2) : place])
        score += -value if is_denied else value
    return "positive" if score > 0 else "negative" if score < 0 else "neutral"


def is_supported(text: str, source: Source) -> bool:
    """Return whether every word and number of a generated text stands in the source.

    Stop words are free, endings may differ. This is strict on purpose: a true sentence in other
    words is refused too, an invented colour, material or number never passes.

    >>> source = Source(title="Red dress", text="Cotton, 40 cm.", category=(), tags=())
    >>> [is_supported(text, source) for text in (
    ...     "A red cotton dress of 40 cm.", "A blue dress.", "A dress of 41 cm.", "")]
    [True, False, False, False]
    """
    language = detect_language(source.whole)
    words = lexical_tokens(text, language=language)
    if not words or not set(_NUMBER.findall(text)) <= set(_NUMBER.findall(source.whole)):
        return False
    whole = source.whole.lower()
    known = set(lexical_tokens(whole, language=language))
    # A negation that the source has not would turn its meaning round.
    if any(word in _NOT and word not in known for word in words):
        return False
    return all(word in known or _has_stem(word, known, whole, language) for word in words)


def _has_stem(word: str, known: set[str], whole: str, language: Language) -> bool:
    if language == "zh" and not word.isascii():
        return word in whole  # the cutter may have cut the source elsewhere
    return any(
        len(word) > _STEM
        and len(other) >= _STEM
        and abs(len(word) - len(other)) <= 3
        and _shared(word, other) >= max(_STEM, min(len(word), len(other)) - 1)
        for other in known
    )


def _shared(one: str, other: str) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def _tags(source: Source, language: Language) -> tuple[str, ...]:
    counts = Counter(lexical_tokens(f"{source.title}\n{source.text}", language=language))
    words = [word for word, _ in counts.most_common() if word not in _NOT and not word.isdigit()]
    return tuple(dict.fromkeys([*source.category, *source.tags, *words]))[:NUM_TAGS]


def _cut(text: str) -> str:
    text = " ".join(text.split())
    if len(text) <= MAX_SUMMARY_CHARACTERS:
        return text
    head = text[: MAX_SUMMARY_CHARACTERS - 1]
    # At a space, unless the language has none.
    return (head.rsplit(" ", 1)[0] if " " in head else head) + "…"
