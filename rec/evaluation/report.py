"""Report: an evaluation as one HTML page that needs nothing else.

No JavaScript, no fonts, no links: style and plot stand inside the page, and a content security
policy forbids the rest. Everything that comes from outside (names, details) is escaped.
"""

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Literal

from rec.evaluation.evaluate import Evaluation
from rec.evaluation.significance import Interval

Language = Literal["en", "zh"]

_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "lang": "en",
        "users": "test users",
        "plot": "NDCG@{k} by model, with 95 % intervals over users",
        "ndcg": "NDCG@{k}",
        "metrics": "Metrics",
        "model": "model",
        "comparisons": "{name} against the others",
        "difference": "difference in NDCG@{k}",
        "ratio": "ratio",
        "verdict": "verdict",
        "better": "better",
        "worse": "worse",
        "unclear": "no clear difference",
        "slices": "NDCG@{k} by events in the history (number of users)",
        "order_gate": "Order gate",
        "order": "histories",
        "ordered": "as they are",
        "shuffled": "shuffled",
        "reversed": "reversed",
        "last_only": "last event only",
        "passed": "NDCG falls without the order: the model reads the sequence.",
        "failed": "Shuffling the histories costs less than 1 % of NDCG: this is a bag model.",
        "details": "Details",
        "limits": "An interval knows the luck of which users were met, not of training seeds or of "
        "the season.",
    },
    "zh": {
        "lang": "zh-CN",
        "users": "名测试用户",
        "plot": "各模型的 NDCG@{k}（95% 置信区间，按用户自助抽样）",
        "ndcg": "NDCG@{k}",
        "metrics": "指标",
        "model": "模型",
        "comparisons": "{name} 与其他模型对比",
        "difference": "NDCG@{k} 之差",
        "ratio": "比值",
        "verdict": "结论",
        "better": "更好",
        "worse": "更差",
        "unclear": "无明显差异",
        "slices": "按历史事件数划分的 NDCG@{k}（括号内为用户数）",
        "order_gate": "顺序检验",
        "order": "历史",
        "ordered": "原始顺序",
        "shuffled": "打乱",
        "reversed": "倒序",
        "last_only": "仅最后一个事件",
        "passed": "去掉顺序后 NDCG 下降：模型确实利用了序列顺序。",
        "failed": "打乱历史后 NDCG 下降不到 1%：模型只看有哪些商品，不看先后（bag model）。",
        "details": "详情",
        "limits": "区间只反映抽到哪些用户的偶然性，不反映训练种子或季节的影响。",
    },
}

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5c6675;--line:#d9dee6;--paper:#fff;
--ours:#1f6feb;--other:#7c8897}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#2d3541;
--paper:#12161c;--ours:#58a6ff;--other:#5c6675}}
body{font:16px/1.5 system-ui,"Noto Sans CJK SC","PingFang SC",sans-serif;color:var(--ink);
background:var(--paper);max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem;font-size:1.2rem}p,figcaption{color:var(--soft)}
figure{margin:2rem 0 0;max-width:56rem}
svg{width:100%;height:auto}svg text{fill:var(--ink);font-size:13px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .5rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}.details td{white-space:normal;text-align:left;
overflow-wrap:anywhere}
.ours{font-weight:600}.bar{fill:var(--other)}.bar.ours{fill:var(--ours)}
.whisker{stroke:var(--ink);stroke-width:1.5}
@media print{body{font-size:10pt;max-width:none;margin:0;padding:0}h2{break-after:avoid}
figure,tr{break-inside:avoid}.wide{overflow:visible}th,td{padding:.2rem .35rem}
.bar{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""".strip()

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LABEL, _PLOT, _WIDTH, _ROW = 210, 420, 720, 30  # pixels of the drawing, before it is scaled
_LONGEST_LABEL = 28  # letters that fit into _LABEL pixels at 13 px
_BAG_SHARE = 0.99  # of NDCG that a bag model keeps: sums in another order move some ties


def render_report(
    evaluation: Evaluation,
    *,
    title: str,
    details: Mapping[str, object],
    order_gate: Mapping[str, float] | None,
    language: Language = "en",
) -> str:
    """Return one self-contained HTML page.

    Args:
        evaluation: what to show; its first model is the one that is highlighted.
        title: headline, plain text.
        details: rows of the last table, such as the cut and the settings; a mapping or list is
            shown as JSON.
        order_gate: the answer of :func:`rec.evaluation.evaluate.order_gate`; ``None`` or empty
            leaves the section out.
        language: of the page's own words; names and details stay as they are.
    """
    words = {
        key: text.replace("{k}", str(evaluation.k)).replace("{name}", evaluation.name)
        for key, text in _WORDS[language].items()
    }
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{evaluation.num_users:,} {words['users']}</p>",
        _figure(evaluation, words),
        _metrics(evaluation, words),
        _comparisons(evaluation, words),
        _slices(evaluation, words),
        _order_gate(order_gate, words) if order_gate else "",
        _details(details, words) if details else "",
    ]
    body = "\n".join(section for section in sections if section)
    return (
        f'<!DOCTYPE html>\n<html lang="{words["lang"]}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _figure(evaluation: Evaluation, words: Mapping[str, str]) -> str:
    """Draw a bar a model, best first, with its interval as a whisker."""
    intervals = evaluation.intervals
    names = sorted(intervals, key=lambda name: -intervals[name].difference)
    largest = max(interval.high for interval in intervals.values())
    scale = _PLOT / largest if largest > 0 else 0.0
    height = len(names) * _ROW
    bars = "\n".join(
        _bar(name, intervals[name], top=place * _ROW, scale=scale, is_ours=name == evaluation.name)
        for place, name in enumerate(names)
    )
    caption = escape(words["plot"])
    values = escape("; ".join(_spoken(name, intervals[name]) for name in names))
    return (
        f'<figure>\n<svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-labelledby="plot-title" aria-describedby="plot-values">\n'
        f'<title id="plot-title">{caption}</title>\n<desc id="plot-values">{values}</desc>\n'
        f"{bars}\n</svg>\n<figcaption>{caption}</figcaption>\n</figure>\n"
        f"<p>{escape(words['limits'])}</p>"
    )


def _bar(name: str, interval: Interval, *, top: int, scale: float, is_ours: bool) -> str:
    middle = top + _ROW // 2
    label = name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"
    low, high = _LABEL + interval.low * scale, _LABEL + interval.high * scale
    return (
        f"<g><title>{escape(_spoken(name, interval))}</title>"
        f'<text x="{_LABEL - 10}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>'
        f'<rect class="bar{" ours" if is_ours else ""}" x="{_LABEL}" y="{top + 6}" '
        f'width="{interval.difference * scale:.1f}" height="{_ROW - 12}"/>'
        f'<line class="whisker" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>'
        f'<text x="{high + 8:.1f}" y="{middle + 4}">{interval.difference:.4f}</text></g>'
    )


def _spoken(name: str, interval: Interval) -> str:
    return f"{name}: {interval.difference:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _metrics(evaluation: Evaluation, words: Mapping[str, str]) -> str:
    columns = list(evaluation.metrics[evaluation.name])
    rows = [
        [name, *(f"{values[column]:.4f}" for column in columns)]
        for name, values in evaluation.metrics.items()
    ]
    return _section(
        words["metrics"], _table([words["model"], *columns], rows, highlight=evaluation.name)
    )


def _comparisons(evaluation: Evaluation, words: Mapping[str, str]) -> str:
    if not evaluation.comparisons:
        return ""
    rows = []
    for name, interval in evaluation.comparisons.items():
        verdict = "better" if interval.difference > 0 else "worse"
        rows.append(
            [
                name,
                f"{interval.difference:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]",
                _ratio(interval),
                words[verdict if interval.is_significant else "unclear"],
            ]
        )
    header = [words["model"], words["difference"], words["ratio"], words["verdict"]]
    return _section(words["comparisons"], _table(header, rows))


def _ratio(interval: Interval) -> str:
    if interval.ratio is None:
        return "–"
    text = f"{interval.ratio:.2f}×"
    if interval.ratio_low is None or interval.ratio_high is None:
        return text
    return f"{text} [{interval.ratio_low:.2f}, {interval.ratio_high:.2f}]"


def _slices(evaluation: Evaluation, words: Mapping[str, str]) -> str:
    parts = evaluation.slices
    header = [words["model"], *(f"{label} ({part.num_users:,})" for label, part in parts.items())]
    rows = [
        [name, *(f"{part.ndcg[name]:.4f}" if part.num_users else "–" for part in parts.values())]
        for name in evaluation.metrics
    ]
    return _section(words["slices"], _table(header, rows, highlight=evaluation.name))


def _order_gate(order_gate: Mapping[str, float], words: Mapping[str, str]) -> str:
    rows = [[words.get(name, name), f"{value:.4f}"] for name, value in order_gate.items()]
    is_ordered = order_gate["shuffled"] < _BAG_SHARE * order_gate["ordered"]
    verdict = words["passed" if is_ordered else "failed"]
    table = _table([words["order"], words["ndcg"]], rows)
    return _section(words["order_gate"], f"<p>{escape(verdict)}</p>\n{table}")


def _details(details: Mapping[str, object], words: Mapping[str, str]) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_text(value))}</td></tr>"
        for name, value in details.items()
    )
    return _section(words["details"], f'<table class="details">\n{rows}\n</table>')


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _section(heading: str, content: str) -> str:
    return f"<h2>{escape(heading)}</h2>\n{content}"


def _table(
    header: Iterable[str], rows: Iterable[list[str]], *, highlight: str | None = None
) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = []
    for row in rows:
        marked = ' class="ours"' if row[0] == highlight else ""
        lines.append(f"<tr{marked}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'
