"""Scripts of texts: which writing a catalog uses, and so which encoders can read it.

A script is not a language (French is ``latin`` too), but it is what decides whether a tokenizer
knows the characters at all.
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
EVERY_SCRIPT = frozenset({"latin", *_RANGES})


def script_shares(texts: Sequence[str]) -> Mapping[str, float]:
    """Return the share of texts in each script found, the most frequent first.

    A text counts for every script other than ``latin`` that it has a character of, and for
    ``latin`` if there is none: a Chinese title with an English brand name is ``han``.

    >>> dict(script_shares(["red dress", "Nike 运动鞋", "連衣裙", "кофе"]))
    {'han': 0.5, 'latin': 0.25, 'cyrillic': 0.25}
    >>> script_shares([])
    {}
    """
    counts: Counter[str] = Counter()
    for text in texts:
        found = () if text.isascii() else [s for s, p in _PATTERNS.items() if p.search(text)]
        counts.update(found or ("latin",))
    return {script: count / len(texts) for script, count in counts.most_common()}
