"""Sentences to tokens: quotes, numbers and words of a closed vocabulary, or nothing at all.

Quotation marks of any usual kind are read, and written as one kind. What stands between two of them
is a quote whatever it says; what stands outside must be a word that the vocabulary has.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rec.ranking.explanations.vocabulary import VOCABULARIES, Vocabulary
from rec.ranking.requests import Language

MAX_CHARACTERS = 600
"""Seven quotes of 60 characters, and the words between them."""
_QUOTES = re.compile('"([^"]*)"|「([^」]*)」|『([^』]*)』|《([^》]*)》')
_NUMBER = re.compile(r"\d{1,6}(?![\d.,]*\d)", re.ASCII)
Kind = Literal["quote", "number", "verb", "label", "word"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """Hold one piece of a sentence.

    Attributes:
        kind: what it is; a word may have several roles in the vocabulary.
        text: as quoted, or as the vocabulary has it.
        number: of a number, also of one that is written out with its unit.
        sentence: which one it stands in, from 0.
    """

    kind: Kind
    text: str
    number: int = 0
    sentence: int = 0


def with_one_kind_of_quotes(text: str) -> str:
    """Return a text as it may be shown: trimmed, quotations in “ ”.

    >>> with_one_kind_of_quotes(' You bought "Tea" and 「茶」. ')
    'You bought “Tea” and “茶”.'
    """
    return _QUOTES.sub(
        lambda found: f"“{next(g for g in found.groups() if g is not None)}”", text
    ).strip()


def read_tokens(text: str, language: Language) -> Sequence[Token] | None:
    """Return the tokens of a text; ``None`` where something in it is no word of the vocabulary.

    >>> [token.text for token in read_tokens("You viewed “Tea” 2 times.", "en") or ()]
    ['you', 'viewed', 'Tea', '2', 'times', '.']
    >>> read_tokens("You loved “Tea”.", "en") is None
    True
    """
    if not 0 < len(text) <= MAX_CHARACTERS or any(
        unicodedata.category(sign)[0] == "C" or (sign.isspace() and sign != " ") for sign in text
    ):
        return None
    vocabulary = VOCABULARIES[language]
    phrases = _phrases(language)
    tokens: list[Token] = []
    sentence, place = 0, 0
    lowered = "".join(sign.lower() if sign.isascii() else sign for sign in text)
    while place < len(text):
        if text[place] == " ":
            place += 1
            continue
        if text[place] == "“":
            end = text.find("”", place)
            if end < 0:
                return None
            quoted = text[place + 1 : end]
            tokens.append(Token(kind="quote", text=quoted, sentence=sentence))
            place = end + 1
            continue
        phrase = next((p for p in phrases if _stands_at(p, lowered, place)), None)
        if phrase is not None:
            tokens.append(_token(phrase, vocabulary, sentence))
            sentence += phrase in vocabulary.ends
            place += len(phrase)
            continue
        number = _NUMBER.match(text, place)
        if number is None:
            return None
        tokens.append(
            Token(kind="number", text=number[0], number=int(number[0]), sentence=sentence)
        )
        place = number.end()
    return tokens


def _token(phrase: str, vocabulary: Vocabulary, sentence: int) -> Token:
    if phrase in vocabulary.verbs:
        return Token(kind="verb", text=vocabulary.verbs[phrase], sentence=sentence)
    if phrase in vocabulary.labels:
        return Token(kind="label", text=vocabulary.labels[phrase], sentence=sentence)
    number = vocabulary.numbers.get(phrase, 0)
    return Token(kind="word", text=phrase, number=number, sentence=sentence)


def _stands_at(phrase: str, text: str, place: int) -> bool:
    """Return whether a phrase begins here and, where it is spelt in letters, also ends here."""
    if not text.startswith(phrase, place):
        return False
    end = place + len(phrase)
    follows = text[end : end + 1]
    return not (
        phrase[-1].isascii()
        and phrase[-1].isalnum()
        and (follows.isalnum() or (follows in "-'_" and follows != ""))
    )


@cache
def _phrases(language: Language) -> tuple[str, ...]:
    """Return all that a language has, longest first."""
    words = VOCABULARIES[language]
    found: set[str] = set()
    for name in Vocabulary.__slots__:
        found |= set(getattr(words, name))
    return tuple(sorted(found, key=lambda phrase: (-len(phrase), phrase)))
