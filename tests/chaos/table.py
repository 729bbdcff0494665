"""The published table of reliability, made from the tries that the drills have kept.

python -m tests.chaos.table        print it; --write puts it into both READMEs
"""

import argparse
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos.book import Figure, read_figures

README: Mapping[str, Path] = {
    "en": Path(__file__).parents[2] / "README.md",
    "zh": Path(__file__).parents[2] / "README.zh.md",
}
BLOCK = re.compile(r"(<!-- reliability -->\n).*?(<!-- /reliability -->)", re.DOTALL)
HEAD: Mapping[str, tuple[str, ...]] = {
    "en": (
        "drill",
        "tries",
        "without a fault",
        "failed",
        "lost",
        "twice",
        "done again, at most",
        "goes on after: median, longest",
        "longest call",
    ),
    "zh": (
        "演练",
        "次数",
        "无故障",
        "失败",
        "丢失",
        "重复",
        "重做（最多）",
        "恢复时间：中位数、最长",
        "最慢的调用",
    ),
}
WORDS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "en": {
        "embed": ("node lost while the catalog is embedded", "texts"),
        "recommend": ("node lost while batch lists are made", "lists"),
        "train": ("node lost while two nodes train", "epochs"),
        "serve_node": ("node lost while two nodes serve", "calls"),
        "serve_cut": ("node's network cut for 10 s while two serve", "calls"),
        "serve_head": ("head lost for 60 s while two nodes serve", "calls"),
        "ray_up": ("`ray up`, three hosts over SSH, then `ray down`", "hosts"),
    },
    "zh": {
        "embed": ("编码目录时失去一个节点", "条文本"),
        "recommend": ("批量生成列表时失去一个节点", "个列表"),
        "train": ("两个节点训练时失去一个", "轮"),
        "serve_node": ("两个节点服务时失去一个", "次调用"),
        "serve_cut": ("两个节点服务时一个断网 10 秒", "次调用"),
        "serve_head": ("两个节点服务时失去头节点 60 秒", "次调用"),
        "ray_up": ("`ray up` 通过 SSH 启动三台主机，再 `ray down`", "台主机"),
    },
}


def table(figures: Mapping[str, Sequence[Figure]], *, language: str) -> str:
    """Return the table as Markdown; a drill without a try has no row."""
    words = WORDS[language]
    rows = [HEAD[language], ("---",) * len(HEAD[language])]
    rows += [_row(words[name], figures[name]) for name in words if figures.get(name)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(words: tuple[str, str], tries: Sequence[Figure]) -> tuple[str, ...]:
    """Return the cells of one drill.

    >>> good = Figure(
    ...     work=100, failures=0, recovery_s=2.0, duplicates=0, lost=0, redone_share=0.05
    ... )
    >>> bad = Figure(
    ...     work=50, failures=3, recovery_s=None, duplicates=0, lost=1, redone_share=0, problem="?"
    ... )
    >>> _row(("node lost", "calls"), [good, bad])
    ('node lost', '2', '1', '3 (150 calls)', '1', '0', '5.0 %', '2 s, 2 s', '–')
    """
    name, unit = words
    times = [one.recovery_s for one in tries if one.recovery_s is not None]
    waits = [one.slowest_s for one in tries if one.slowest_s is not None]
    recovery = f"{statistics.median(times):.0f} s, {max(times):.0f} s" if times else "–"
    return (
        name,
        str(len(tries)),
        str(sum(one.is_good() for one in tries)),
        f"{sum(one.failures for one in tries)} ({sum(one.work for one in tries):,} {unit})",
        str(sum(one.lost for one in tries)),
        str(sum(one.duplicates for one in tries)),
        f"{100 * max(one.redone_share for one in tries):.1f} %",
        recovery,
        f"{max(waits):.1f} s" if waits else "–",
    )


def written(text: str, *, language: str) -> str:
    """Return a README's text with the table of the kept tries in its block."""
    made = table(read_figures(), language=language)
    return BLOCK.sub(lambda match: match[1] + made + match[2], text)


def main() -> None:
    """Print the table or write it."""
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args().write:
        print(table(read_figures(), language="en"), end="")  # noqa: T201
        return
    for language, path in README.items():
        path.write_text(written(path.read_text("utf-8"), language=language), encoding="utf-8")


if __name__ == "__main__":
    main()
