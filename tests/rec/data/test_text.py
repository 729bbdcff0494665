import sys
import time
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec.data import lexical
from rec.data.lexical import lexical_tokens
from rec.data.text import detect_languages, normalise_text, normalise_texts
from rec.errors import ConfigError

PIECES = st.sampled_from(
    [
        "&amp;",
        "&lt;",
        "&#65286;",
        "&#38;amp;",
        "＆ｌｔ；",
        "\u200b",
        "\u0301",
        "\u202e",
        "e",
        " ",
        "\n",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join))


@settings(deadline=None)
@given(TEXTS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once


@settings(deadline=None)
@given(TEXTS)
def test_what_is_stored_can_be_read_and_written(text: str) -> None:
    stored = normalise_text(text)
    stored.encode()  # no lone surrogate
    assert unicodedata.is_normalized("NFKC", stored)
    assert stored == " ".join(stored.split())
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in stored)
    assert not any(unicodedata.bidirectional(c) in {"RLO", "LRO", "RLE", "LRI"} for c in stored)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8")), TEXTS), max_size=8))
def test_column_equals_value_by_value(texts: list[str | None]) -> None:
    texts = [None if t is None else t.encode("utf-8", "replace").decode() for t in texts]
    found = normalise_texts(pl.Series(texts, dtype=pl.String)).to_list()
    assert found == [None if text is None else normalise_text(text) for text in texts]


def test_characters_that_skip_the_slow_path_are_their_own_normal_form() -> None:
    for code in [*range(0x21, 0x7F), *range(0x4E00, 0xA000), 0x3001, 0x3002]:
        assert chr(code) == "&" or normalise_text(chr(code)) == chr(code), hex(code)


def test_joined_emoji_keep_their_joiner() -> None:
    assert normalise_text("👩‍🔬") == "👩‍🔬"


@pytest.mark.parametrize(
    "text",
    ["&amp;" * 200_000, "a" + "\u0301\u0316" * 200_000, " " * 1_000_000, "&" + "amp;" * 200_000],
    ids=["entities", "marks", "spaces", "nested"],
)
def test_hostile_text_takes_no_longer_than_its_length_allows(text: str) -> None:
    start = time.process_time()
    normalise_text(text)
    # Squared in the length it would take minutes.
    assert time.process_time() - start < 5


def test_languages_by_share_of_script() -> None:
    expected = {
        "时尚 穿搭": "zh",
        "iPhone 15 Pro 手机壳": "zh",
        "the 茶 tea book of the far east": "en",
        "鲜の每日生鲜牛奶": "zh",
        "春の新作ワンピース": "other",
        "원피스": "other",
        "café crème": "other",
        "l'été à Genève": "other",
        "3.5 mm": "en",
        "100%": "other",
    }
    assert dict(zip(expected, detect_languages(pl.Series(list(expected))), strict=True)) == expected


def test_chinese_is_cut_into_words() -> None:
    pytest.importorskip("jieba")
    assert lexical_tokens("我们的红色连衣裙，不是黑色的 iPhone！") == [
        "红色", "连衣裙", "不是", "黑色", "iphone",
    ]  # fmt: skip


def test_negation_is_no_stop_word() -> None:
    assert lexical_tokens("This is not for dogs") == ["not", "dogs"]


def test_without_jieba_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    lexical._chinese_cutter.cache_clear()
    with pytest.raises(ConfigError, match=r"nextray\[zh\]"):
        lexical_tokens("连衣裙")
    lexical._chinese_cutter.cache_clear()
