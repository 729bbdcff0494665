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
from rec.ranking.explanations.facts import Facts
from rec.ranking.explanations.prompting import explanation_prompt
from rec.ranking.explanations.sentences import with_one_kind_of_quotes
from rec.ranking.explanations.wording import Words, facts_of
from rec.ranking.release import MAX_NARRATED
from rec.ranking.requests import RankedItem

MAX_NEW_TOKENS = 64
"""A title of 60 characters takes 20 of them, in Chinese more."""
ACCEPTED, REFUSED, LATE = "accepted", "refused", "late"


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
        self,
        facts: Sequence[Facts],
        *,
        seconds: float,
        prompt: Callable[[Facts], str] = explanation_prompt,
    ) -> list[str | None]:
        """Return a checked text for each; ``None`` where none passed.

        Args:
            facts: of each text.
            seconds: for all of them together, waiting included.
            prompt: facts to what the model reads.
        """
        if not facts:
            return []
        end = time.monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            self._count(LATE, len(facts))
            return [None] * len(facts)
        try:
            left = end - time.monotonic()
            written = self._continue(
                [prompt(one) for one in facts], max_new_tokens=MAX_NEW_TOKENS, max_seconds=left
            )
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


def _first_line(text: str) -> str:
    return with_one_kind_of_quotes(text.strip().partition("\n")[0])
