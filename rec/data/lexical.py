"""Words of a text, for counting and for explanations; never what an encoder reads.

A pretrained encoder has learned from whole sentences: without punctuation and stop words its
input is unlike anything that it knows, and a removed "not" turns the meaning round.
"""

import re
import tempfile
from functools import cache
from typing import Any

from rec.data.text import Language, detect_language, normalise_text
from rec.errors import ConfigError

_ENGLISH = (
    "a about above after again all also am an and any are as at be because been before being below "
    "between both but by can could did do does doing down during each for from further had has "
    "have having he her here hers herself him himself his how i if in into is it its itself just "
    "me more most my myself of off on once only or other our ours ourselves out over own same she "
    "should so some such than that the their theirs them themselves then there these they this "
    "those through to too under until up very was we were what when where which while who whom "
    "why will with would you your yours yourself yourselves"
)
_CHINESE = (
    "的 了 和 是 在 也 都 就 而 及 与 或 这 那 这个 那个 这些 那些 一个 一种 我 你 他 她 它 我们 "
    "你们 他们 她们 它们 自己 之 其 为 被 把 让 给 从 到 对 向 于 以 所 着 过 吗 呢 吧 啊 呀 地 得 "
    "因为 所以 但是 如果 可以 就是 还 还是 并 并且 等 等等 以及 很 更 最 会 能 要 有 又 再 上 下 "
    "中 里"
)
STOP_WORDS = frozenset(f"{_ENGLISH} {_CHINESE}".split())
"""Without negations (no, not, never, without, 不, 没, 没有, 无, 非): they turn a meaning round."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def lexical_tokens(text: str, *, language: Language | None = None) -> list[str]:
    """Return the words of a text in order, lower case, without stop words and punctuation.

    Args:
        text: of any form; it is normalised first.
        language: who cuts it; found by script if absent. Chinese is cut by jieba (extra ``[zh]``),
            everything else at what is neither letter nor digit.

    Raises:
        ConfigError: the text is Chinese and jieba is not installed.

    >>> lexical_tokens("The red dress isn't for Anna's 2 dogs!")
    ['red', 'dress', "isn't", "anna's", '2', 'dogs']
    >>> lexical_tokens("")
    []
    """
    text = normalise_text(text).lower()
    if (language or detect_language(text)) == "zh":
        words = [word.strip() for word in _chinese_cutter().lcut(text)]
        return [w for w in words if _WORD.fullmatch(w) and w not in STOP_WORDS]
    return [word for word in _WORD.findall(text) if word not in STOP_WORDS]


@cache
def _chinese_cutter() -> Any:
    try:
        import jieba  # an extra
    except ImportError:
        raise ConfigError(
            "expected jieba to cut Chinese text into words, it is not installed: "
            "run `pip install 'nextray[zh]'`"
        ) from None
    jieba.setLogLevel("WARNING")
    cutter = jieba.Tokenizer()
    # It keeps its dictionary as a cache file that it trusts: never in a folder others write to.
    with tempfile.TemporaryDirectory(prefix="nextray-jieba-") as folder:
        cutter.tmp_dir = folder
        cutter.initialize()
    return cutter
