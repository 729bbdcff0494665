"""Mentions: what each token of a text can mean, before and after it is read against the facts."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from rec.ranking.explanations.facts import Fact, Facts
from rec.ranking.explanations.sentences import Kind, Token
from rec.ranking.explanations.vocabulary import VOCABULARIES
from rec.ranking.requests import Language

LISTED = -1
"""Stands for the listed item where others are numbered by their place among the facts."""
ANY = "*"
ARTICLES = frozenset({"the", "a", "an", "same", "相同", "的", ":", "："})
_CATEGORY: Mapping[Language, str] = {"en": "category", "zh": "类别"}
_NOTHING = Fact(text="")


class Mentions:
    """Hold a text's tokens and, for each that names something, what it can mean.

    ``meant`` maps the token's place to places of facts, and ``LISTED``. A rule narrows it; a
    mention that can mean nothing any more is untrue.
    """

    def __init__(self, tokens: Sequence[Token], facts: Facts) -> None:
        """Read tokens: quotes name facts of just that text."""
        names = {fact.attribute for fact in facts.facts if fact.attribute and not fact.label}
        known = {facts.title, *(fact.text for fact in facts.facts)} - {""}
        self.facts = facts
        self.words = VOCABULARIES[facts.language]
        # An attribute without a word of its own is called by its name, in quotes.
        self.tokens = [
            replace(token, kind="label")
            if token.kind == "quote" and token.text in names - known
            else token
            for token in tokens
        ]
        own = {place for place, fact in enumerate(facts.facts) if fact.is_listed}
        self.meant: dict[int, frozenset[int]] = {}
        for place, token in enumerate(self.tokens):
            if token.kind == "quote":
                found = {n for n, fact in enumerate(facts.facts) if fact.text == token.text}
                if token.text == facts.title and token.text:
                    found |= {LISTED, *own}
                self.meant[place] = frozenset(found)
            elif facts.title and self.is_word(place, self.words.self_words):
                self.meant[place] = frozenset({LISTED, *own})

    def is_word(self, place: int, words: Collection[str]) -> bool:
        """Return whether a token is one of some words."""
        token = self.at(place)
        return token is not None and token.kind == "word" and token.text in words

    def at(self, place: int) -> Token | None:
        """Return a token; ``None`` before the first and after the last."""
        return self.tokens[place] if 0 <= place < len(self.tokens) else None

    def places(self, kind: Kind) -> Iterator[int]:
        """Return where the tokens of a kind are."""
        return (place for place, token in enumerate(self.tokens) if token.kind == kind)

    def in_sentence(self, number: int) -> list[int]:
        """Return the mentions of a sentence."""
        return [place for place in self.meant if self.tokens[place].sentence == number]

    def keep(self, place: int, numbers: Collection[int]) -> bool:
        """Keep some of the meanings of a mention; say whether any is left."""
        self.meant[place] = self.meant[place] & frozenset(numbers)
        return bool(self.meant[place])

    def fact(self, number: int) -> Fact:
        """Return a fact by what a mention means; one that says nothing for the listed item."""
        return _NOTHING if number == LISTED else self.facts.facts[number]

    def can_be_listed(self, place: int) -> bool:
        """Return whether a mention may mean the listed item."""
        return LISTED in self.meant.get(place, ())

    def joined_to(self, place: int, step: Literal[-1, 1]) -> int | None:
        """Return the mention before (-1) or behind (1), over joins alone; ``None`` for none."""
        other = place + step
        while self.is_word(other, self.words.joins):
            other += step
        return other if other != place + step and other in self.meant else None

    def value_of(self, label: int) -> int | None:
        """Return the quote that a label belongs to: behind it, or else before ("in the name")."""
        place = label + 1
        closed = self.words.joins | self.words.ends
        while (token := self.at(place)) and token.kind == "word" and token.text not in closed:
            place += 1
        name = self.tokens[label].text
        before = label - 1
        while self.is_word(before, ARTICLES | self.words.in_words):
            before -= 1
        for quote in (place, before):
            meant = self.meant.get(quote, ())
            if any(name in (self.fact(n).label, self.fact(n).attribute) for n in meant):
                return quote
        return None

    def introduced_by(self, place: int) -> str | None:
        """Return the label that a quote is a value of, or ``*`` for any; ``None`` for none."""
        if all(not self.fact(number).attribute for number in self.meant[place]):
            return None
        for label in self.places("label"):
            if self.value_of(label) == place:
                return self.tokens[label].text
        before = place - 1
        while self.is_word(before, ARTICLES):
            before -= 1
        if self.is_word(before, self.words.in_words):
            return _CATEGORY[self.facts.language]
        if self.is_word(before, self.words.common):
            return ANY
        joined = self.joined_to(place, -1)
        return None if joined is None else self.introduced_by(joined)

    def things(self, places: Collection[int]) -> list[int]:
        """Return the mentions of items and queries that are not the listed one."""
        return [
            place
            for place in places
            if any(n != LISTED and not self.fact(n).attribute for n in self.meant[place])
        ]
