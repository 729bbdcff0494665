"""Narrate: a language model words the evidence, and what it writes is checked or thrown away.

The model reads the facts and nothing else; titles stand among them in quotes, as data. Whatever a
title says, the model is only believed where each claim stands in the evidence, so that the worst
that a hostile title can do is to have the template's sentence shown. Time and tokens are bounded;
who comes while another text is written, or past the time, gets the template too.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from rec.ranking.explanations.checking import is_supported
from rec.ranking.explanations.facts import Fact, Facts
from rec.ranking.explanations.sentences import with_one_kind_of_quotes
from rec.ranking.explanations.wording import Words, facts_of
from rec.ranking.release import MAX_NARRATED
from rec.ranking.requests import Language, RankedItem

MAX_NEW_TOKENS = 64
"""A title of 60 characters takes 20 of them, in Chinese more."""
_MAX_VALUES = 2
ACCEPTED, REFUSED, LATE = "accepted", "refused", "late"

_PROMPTS: Mapping[Language, str] = {
    "en": """Say in one sentence why an item is in the list, only from the facts.

Facts: bought “Oat milk” 3 times; category “Dairy”
Sentence: You bought “Oat milk” 3 times, and both are in the category “Dairy”.

Facts: viewed “Desk lamp”; bought “Armchair” 2 times
Sentence: This is here because you viewed “Desk lamp” and bought “Armchair” 2 times.

Facts: bought this 5 times
Sentence: It is in the list because you bought this 5 times.

Facts: {facts}
Sentence:""",
    "zh": """只用事实，用一句话说明为什么推荐此商品。

事实：购买过“燕麦奶” 3 次；类别“乳品”
句子：因为您购买过“燕麦奶” 3 次，它们同属“乳品”。

事实：浏览过“台灯”；购买过“扶手椅” 2 次
句子：此商品在列表中，因为您浏览过“台灯”，还购买过“扶手椅” 2 次。

事实：购买过此商品 5 次
句子：因为您购买过此商品 5 次，所以推荐它。

事实：{facts}
句子：""",
}


class Narrator:
    """Word evidence; safe for threads, one text at a time."""

    def __init__(self, continue_texts: Callable[..., list[str]]) -> None:
        """Hold a model.

        Args:
            continue_texts: prompts, ``max_new_tokens`` and ``max_seconds`` to one line each.
        """
        self._continue = continue_texts
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._counts: Counter[str] = Counter()

    def narrate(
        self, facts: Sequence[Facts], *, seconds: float, prompts: Mapping[Language, str] = _PROMPTS
    ) -> list[str | None]:
        """Return a checked text for each; ``None`` where none passed.

        Args:
            facts: of each text.
            seconds: for all of them together, waiting included.
            prompts: what the model reads, by language, with a place for ``{facts}``.
        """
        if not facts:
            return []
        end = time.monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            self._count(LATE, len(facts))
            return [None] * len(facts)
        try:
            left = end - time.monotonic()
            lines = [prompts[one.language].replace("{facts}", fact_line(one)) for one in facts]
            written = self._continue(lines, max_new_tokens=MAX_NEW_TOKENS, max_seconds=left)
            texts = [
                text if is_supported(text, one) else None
                for text, one in zip(map(_first_line, written), facts, strict=True)
            ]
        finally:
            self._lock.release()
        accepted = sum(text is not None for text in texts)
        self._count(ACCEPTED, accepted)
        self._count(REFUSED, len(texts) - accepted)
        return texts

    def take_counts(self) -> Mapping[str, int]:
        """Return how many texts were accepted, refused and late since the last call."""
        with self._counting:
            counts, self._counts = self._counts, Counter()
        return counts

    def _count(self, outcome: str, number: int) -> None:
        with self._counting:
            self._counts[outcome] += number


@cache
def load_narrator(model: str) -> Narrator:
    """Return the narrator of a model; each is loaded once in a process.

    Args:
        model: ``package:NAME``, a folder, or a name on the Hugging Face hub.

    Raises:
        ConfigError: it is not there, does not write text, or may run code.
    """
    from rec.encoders.language_model import LanguageModel  # loads transformers

    flag = "--ranking.narrator"
    return Narrator(LanguageModel(model, batch_size=MAX_NARRATED, flag=flag).continue_lines)


def narrate_items(
    items: Sequence[RankedItem], narrator: Narrator, *, num_items: int, seconds: float
) -> tuple[RankedItem, ...]:
    """Return the items of a list, the first explanations with evidence in the model's words.

    Args:
        items: of one list, explained.
        narrator: writes.
        num_items: how many explanations at most.
        seconds: for all of them together.
    """
    asked = [
        (place, item, item.explanation)
        for place, item in enumerate(items)
        if item.explanation is not None and item.explanation.evidence
    ][:num_items]
    facts = [
        facts_of(
            Words(
                title=item.title,
                source=item.source,
                is_own=[piece.item_id == item.item_id for piece in explanation.evidence],
                has_history=True,
            ),
            explanation.evidence,
            language=explanation.language,
        )
        for _, item, explanation in asked
    ]
    narrated = list(items)
    texts = narrator.narrate(facts, seconds=seconds)
    for (place, item, explanation), text in zip(asked, texts, strict=True):
        if text is not None:
            said = replace(explanation, text=text, is_generated=True)
            narrated[place] = replace(item, explanation=said)
    return tuple(narrated)


def fact_line(facts: Facts) -> str:
    """Return the facts as the model reads them.

    >>> from rec.ranking.explanations.facts import Fact
    >>> tea = Fact(text="Tea", verbs=frozenset({"bought"}), count=2)
    >>> kind = Fact(text="Hot", attribute="category", label="category", of=frozenset({0}))
    >>> fact_line(Facts(language="en", facts=[tea, kind], title="Cup"))
    'bought “Tea” 2 times; category “Hot”'
    """
    is_english = facts.language == "en"
    space = " " * is_english

    def times(fact: Fact) -> str:
        if fact.count is None or (fact.count == 1 and not fact.attribute):
            return ""
        return f" {fact.count} times" if is_english else f" {fact.count} 次"

    things = [fact for fact in facts.facts if fact.attribute is None]
    values = [fact for fact in facts.facts if fact.attribute is not None]
    shared = [fact for fact in values if fact.of]
    lines = []
    if facts.total is not None:
        lines.append(f"{facts.total} events" if is_english else f"{facts.total} 次行为")
    lines += [
        f"{v.label or f'“{v.attribute}”'}{space}“{v.text}”{times(v)}" for v in values if not v.of
    ]
    for fact in things:
        this = "this" if is_english else "此商品"
        name = this if fact.is_listed else f"“{fact.text}”"
        lines.append(f"{''.join(sorted(fact.verbs))}{space}{name}{times(fact)}")
    if len(things) == 1:  # of two, the model would not know which
        lines += [f"{v.label or f'“{v.attribute}”'}{space}“{v.text}”" for v in shared[:_MAX_VALUES]]
    for fact in facts.facts:
        if fact.trend is not None:
            word = {"more": "变多", "less": "变少"}[fact.trend]
            lines.append(f"{fact.trend} “{fact.text}”" if is_english else f"“{fact.text}”{word}")
    return ("; " if is_english else "；").join(lines)


def _first_line(text: str) -> str:
    return with_one_kind_of_quotes(text.strip().partition("\n")[0])
