r"""Text as it is stored: one form for what looks the same, and the language it is written in.

Titles, texts and queries are normalised once, when they enter; everything behind reads one form.
What the encoder reads keeps its punctuation, case and stop words: a pretrained model has learned
from them. :mod:`rec.data.lexical` is for where words are counted.

Flaw: compatibility normalisation (NFKC) is not reversible: ``Nike™`` becomes ``NikeTM``, and ``½``
becomes ``1⁄2``. It is the price of ``ＡＢＣ１２３`` and ``ABC123`` being one query.
"""

import html
import re
import sys
import unicodedata
from functools import cache
from typing import Literal

import polars as pl

Language = Literal["zh", "en", "other"]

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
"""Only with its semicolon: ``sound&notebook`` holds no ``&not``."""
_MAX_ROUNDS = 5
"""Entities within entities that are followed; shops escape twice, never five times."""
_INVISIBLE = re.compile(
    "["
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters that are no white space
    "\xad\u061c\u180e\u200b\u200e\u200f\u2060-\u2064\ufeff"  # soft hyphen, zero width, marks
    "\u202a-\u202e\u2066-\u206f\ufff9-\ufffb"  # bidirectional overrides, annotations
    "\ud800-\udfff\U000e0000-\U000e007f"  # lone surrogates, tags
    "]+"
)
"""What a reader cannot see. The joiners U+200C and U+200D stay: they shape letters and emoji."""
_SEEN = "!-%'-~\u4e00-\u9fff\u3001\u3002"
"""Characters that are their own normal form: ASCII without ``&``, unified Han, 、 and 。"""
_PLAIN = f"^(?:[{_SEEN}]+(?: [{_SEEN}]+)*)?$"
_LONG = 1000
"""Characters from which a text is checked for runs of combining marks."""
_HAN_WEIGHT = 2.5
"""Latin letters that one Han character counts for: two of them make a word, five letters do."""
_ZH_SHARE = 0.3
_KANA_SHARE = 0.2
_ASCII_SHARE = 0.9


def normalise_text(text: str) -> str:
    r"""Return the form under which a text is stored; doing it twice changes nothing.

    HTML entities become characters, full-width and other compatibility forms their usual ones
    (NFKC), control, bidirectional and zero-width characters go, white space becomes single spaces.

    >>> normalise_text("  Ｒｅｄ　dress&nbsp;&amp;amp; shoes\n")
    'Red dress & shoes'
    >>> normalise_text("时尚　ｼｬﾂ，１００％")
    '时尚 シャツ,100%'
    >>> normalise_text("\u202egnp.exe\u202c\x00 a\u200bb")
    'gnp.exe ab'
    >>> normalise_text("sound&notebook, R&D, &unknown;")
    'sound&notebook, R&D, &unknown;'
    """
    for _ in range(_MAX_ROUNDS):
        before = text
        text = _one_round(text)
        if text == before:
            break
    else:
        text = _one_round(text.replace("&", " "))
    return " ".join(text.split())


def normalise_texts(texts: pl.Series) -> pl.Series:
    """Return :func:`normalise_text` of every value; nulls stay. Plain values cost no Python.

    >>> normalise_texts(pl.Series(["red  dress", None, "时尚 穿搭", "&lt;b&gt;"])).to_list()
    ['red dress', None, '时尚 穿搭', '<b>']
    """
    open_texts = texts.filter(~texts.str.contains(_PLAIN)).unique()
    if not len(open_texts):
        return texts
    known = [normalise_text(text) for text in open_texts.to_list()]
    return texts.replace(open_texts, pl.Series(known, dtype=pl.String))


def detect_language(text: str) -> Language:
    """Return the language by its script: ``zh``, ``en``, or ``other``.

    A Chinese title with a long English brand is Chinese; a Japanese one is known by its kana.
    Flaw: script alone cannot tell English from other languages in plain Latin letters, so
    unaccented French is ``en``.

    >>> [detect_language(text) for text in ("连衣裙", "MacBook Pro 14 笔记本", "Red dress")]
    ['zh', 'zh', 'en']
    >>> [detect_language(text) for text in ("ワンピース 赤", "Красное платье", "12345", "")]
    ['other', 'other', 'other', 'other']
    """
    language: Language = detect_languages(pl.Series([text]))[0]
    return language


def detect_languages(texts: pl.Series) -> pl.Series:
    """Return :func:`detect_language` of every value; null counts as no text.

    >>> detect_languages(pl.Series(["茶", "tea", None])).to_list()
    ['zh', 'en', 'other']
    """
    text = pl.col("text")
    counts = texts.fill_null("").alias("text").to_frame()
    counts = counts.select(
        (text.str.count_matches(r"\p{Han}") * _HAN_WEIGHT).alias("han"),
        text.str.count_matches(r"[\p{Hiragana}\p{Katakana}]").alias("kana"),
        text.str.count_matches("[A-Za-z]").alias("ascii"),
        text.str.count_matches(r"\p{L}").alias("letters"),
        text.str.count_matches(r"[\p{L}--\p{Han}]").alias("spelt"),
    )
    han, kana, spelt = pl.col("han"), pl.col("kana"), pl.col("spelt")
    is_chinese = (han >= _ZH_SHARE * (han + spelt)) & (
        kana * _HAN_WEIGHT <= _KANA_SHARE * (han + kana * _HAN_WEIGHT)
    )
    is_english = pl.col("ascii") >= _ASCII_SHARE * pl.col("letters")
    return counts.select(
        pl.when(pl.col("letters") == 0)
        .then(pl.lit("other"))
        .when(is_chinese)
        .then(pl.lit("zh"))
        .when(is_english)
        .then(pl.lit("en"))
        .otherwise(pl.lit("other"))
        .alias("language")
    )["language"]


def _one_round(text: str) -> str:
    text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    text = _INVISIBLE.sub("", text)
    if len(text) > _LONG:
        # Putting a run of marks in order takes its length squared (Unicode UAX 15, D4).
        text = _mark_runs().sub(lambda match: match[0][:30], text)
    return unicodedata.normalize("NFKC", text)


@cache
def _mark_runs() -> re.Pattern[str]:
    """Return what matches more than 30 combining marks in a row; no writing system has them."""
    marks = [code for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code))]
    return re.compile(f"[{''.join(map(chr, marks))}]{{31,}}")
