"""Writing and language of texts: what a catalog is written in, and so which encoders can read it.

A script decides whether a tokenizer knows the characters at all. Of Latin script, which most
languages of Europe share, the little words say more: ``latin`` is taken for English unless most
texts that show a language show another one.

Flaw: a catalog of bare nouns without an accent shows no language and counts as English; of two
foreign languages in Latin script only the more frequent one is named.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

_RANGES = {
    "kana": "\u3040-\u30ff",
    "han": "\u3400-\u9fff\uf900-\ufaff",
    "hangul": "\u1100-\u11ff\uac00-\ud7af",
    "cyrillic": "\u0400-\u052f",
    "arabic": "\u0600-\u06ff",
    "thai": "\u0e00-\u0e7f",
    "greek": "\u0370-\u03ff",
    "hebrew": "\u0590-\u05ff",
    "indic": "\u0900-\u0dff",
}
_PATTERNS = {script: re.compile(f"[{chars}]") for script, chars in _RANGES.items()}
LITTLE_WORDS = {
    "de": "der das ein eine und mit für aus vom zum zur ohne auf",
    "fr": "le la les une du de des et au aux avec pour sur dans en",
    "es": "el la los las del de y para por sin una en",
    "it": "il gli di della dei delle da nel senza una",
    "pt": "os da das em com sem para uma de",
    "nl": "het een voor zonder de en op",
    "pl": "na dla oraz bez ze",
    "tr": "ve ile için bir",
    "sv": "och för av utan till",
    "da": "og til uden af",
    "fi": "ja sekä ilman",
    "cs": "pro bez nebo na ze",
    "hu": "és az egy",
    "ro": "și din pentru fără",
    "vi": "và của cho",
    "id": "dan yang untuk dengan",
}
"""Frequent words of the languages in Latin script but English; none is an English word."""
_LITTLE = {name: frozenset(words.split()) for name, words in LITTLE_WORDS.items()}
_ENGLISH_WORDS = "the of and for with from to by your you is it this that without how what are"
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_ACCENT = re.compile("[\u00df-\u00f6\u00f8-\u024f\u1ea0-\u1ef9]")
_WORD = re.compile(r"[^\W\d_]+")
_MOSTLY = 0.4
"""Share of foreign texts among those that show a language from which Latin script is not English:
one in eight film titles of an English catalog is foreign."""
_AT_LEAST = 0.1
"""Share of foreign texts of all: a few brands with an accent are no language."""
EVERY_SCRIPT = frozenset({"latin", *LITTLE_WORDS, *_RANGES})
"""Every name that :func:`language_shares` gives."""


def script_shares(texts: Sequence[str]) -> Mapping[str, float]:
    """Return the share of texts in each script found, the most frequent first.

    A text counts for every script other than ``latin`` that it has a character of, and for
    ``latin`` if there is none: a Chinese title with an English brand name is ``han``.

    >>> dict(script_shares(["red dress", "Nike 运动鞋", "連衣裙", "кофе"]))
    {'han': 0.5, 'latin': 0.25, 'cyrillic': 0.25}
    >>> script_shares([])
    {}
    """
    counts = Counter(script for text in texts for script in _scripts(text))
    return {script: count / len(texts) for script, count in counts.most_common()}


def language_shares(texts: Sequence[str]) -> Mapping[str, float]:
    """Return :func:`script_shares` with ``latin`` split: what is not English, by its language.

    >>> dict(language_shares(["Robe en coton", "Lampe de bureau", "Veste", "Robe d'été"]))
    {'fr': 0.75, 'latin': 0.25}
    >>> dict(language_shares(["Dress of cotton", "Lamp for the desk", "Café de Flore", "Jacket"]))
    {'latin': 1.0}
    """
    shares = dict(script_shares(texts))
    marks: Counter[str] = Counter()
    foreign = english = 0
    for text in texts:
        if _scripts(text) != ("latin",):
            continue
        small = text.lower()
        words = frozenset(_WORD.findall(small))
        if words & _ENGLISH:
            english += 1
            continue
        found = [name for name, little in _LITTLE.items() if words & little]
        marks.update(found)
        foreign += bool(found or _ACCENT.search(small))
    if marks and foreign >= max(_AT_LEAST * len(texts), _MOSTLY * (foreign + english)):
        share = foreign / len(texts)
        shares |= {"latin": shares["latin"] - share, marks.most_common(1)[0][0]: share}
    return {name: share for name, share in sorted(shares.items(), key=lambda s: -s[1]) if share}


def _scripts(text: str) -> tuple[str, ...]:
    found = () if text.isascii() else [s for s, p in _PATTERNS.items() if p.search(text)]
    return tuple(found) or ("latin",)
