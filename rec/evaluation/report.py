"""Report: an evaluation as one HTML page that needs nothing else.

No JavaScript, no fonts, no links: style and plot stand inside the page, and a content security
policy forbids the rest. Everything that comes from outside (names, details) is escaped.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape

from rec.evaluation.calibration import Reliability
from rec.evaluation.evaluate import Evaluation
from rec.evaluation.order_gate import OrderGate
from rec.evaluation.prefixes import PrefixCurve
from rec.evaluation.report_costs import Cost, cost_section
from rec.evaluation.report_html import section, table
from rec.evaluation.report_plots import draw_lengths, draw_reliability, draw_sweep
from rec.evaluation.report_users import bias_section, language_section, prefix_section
from rec.evaluation.report_words import WORDS, Language
from rec.evaluation.significance import Interval
from rec.evaluation.sweeping import Sweep

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
th,td{padding:.3rem .45rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.wide table{font-size:.8rem}.wide :is(th,td){padding:.3rem}figure+.wide{margin-top:1rem}
th{white-space:normal;vertical-align:bottom}
th:first-child,td:first-child{text-align:left}.details td{white-space:normal;text-align:left;
overflow-wrap:anywhere}
.ours{font-weight:600}.bar{fill:var(--other)}.bar.ours{fill:var(--ours)}
.whisker{stroke:var(--ink);stroke-width:1.5}.axis{stroke:var(--line)}.guide{stroke:var(--soft);
stroke-dasharray:4}.path{fill:none;stroke:var(--other)}.dot{fill:var(--other)}
.dot.ours{fill:var(--ours)}h3{font-size:1rem;margin:1.5rem 0 .5rem}a{color:var(--ours)}
@media print{body{font-size:10pt;max-width:none;margin:0;padding:0}h2{break-after:avoid}
figure,tr{break-inside:avoid}.wide{overflow:visible}th,td{padding:.2rem .35rem}
.bar{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""".strip()

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LABEL, _PLOT, _WIDTH, _ROW = 210, 420, 720, 30  # pixels of the drawing, before it is scaled
_LONGEST_LABEL = 28  # letters that fit into _LABEL pixels at 13 px


def render_report(
    evaluation: Evaluation,
    *,
    title: str,
    details: Mapping[str, object],
    order_gate: OrderGate | None,
    sweep: Sweep | None = None,
    calibration: Reliability | None = None,
    prefixes: PrefixCurve | None = None,
    costs: Sequence[Cost] = (),
    data_card: str | None = None,
    language: Language = "en",
) -> str:
    """Return one self-contained HTML page.

    Args:
        evaluation: what to show; its first model is the one that is highlighted.
        title: headline, plain text.
        details: rows of the last table, such as the cut and the settings; a mapping or list is
            shown as JSON.
        order_gate: the answer of :func:`rec.evaluation.order_gate.order_gate`; ``None`` leaves the
            section out.
        sweep: what each lambda of popularity gives; left out if absent.
        calibration: of the ranker's probabilities; left out if absent.
        prefixes: NDCG by number of known events; left out if absent.
        costs: what each stage took; left out if there is none.
        data_card: where the log's page lies, relative to this one; no link if absent.
        language: of the page's own words; names and the values of details stay as they are.
    """
    words = {
        key: text.replace("{k}", str(evaluation.k)).replace("{name}", evaluation.name)
        for key, text in WORDS[language].items()
    }
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{evaluation.num_users:,} {words['users']}</p>",
        _figure(evaluation, words),
        _metrics(evaluation, words),
        _comparisons(evaluation, words),
        _slices(evaluation, words),
        prefix_section(prefixes, evaluation.name, words) if prefixes else "",
        _facets(evaluation, words) if evaluation.facets else "",
        language_section(evaluation.languages, evaluation.name, words)
        if evaluation.languages
        else "",
        bias_section(evaluation.bias, evaluation.name, words) if evaluation.bias else "",
        _sweep(sweep, words) if sweep else "",
        section(words["calibration"], draw_reliability(calibration, words)) if calibration else "",
        _order_gate(order_gate, words) if order_gate else "",
        cost_section(costs, words) if costs else "",
        _details(details, words) if details else "",
        f'<p><a href="{escape(data_card)}">{words["card"]}</a></p>' if data_card else "",
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
    made = table([words["model"], *columns], rows, highlight=evaluation.name)
    return section(words["metrics"], f"{made}\n<p>{escape(words['degenerate'])}</p>")


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
    return section(words["comparisons"], table(header, rows))


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
    made = table(header, rows, highlight=evaluation.name)
    curve = draw_lengths(parts, evaluation.name, words)
    return section(words["slices"], f"{made}\n{curve}")


def _facets(evaluation: Evaluation, words: Mapping[str, str]) -> str:
    content = []
    for facet, slices in evaluation.facets.items():
        if not slices:
            continue
        labels = [f"{words.get(name, name)} ({part.num_users:,})" for name, part in slices.items()]
        rows = [
            [name, *(f"{part.ndcg[name]:.4f}" for part in slices.values())]
            for name in evaluation.metrics
        ]
        made = table([words["model"], *labels], rows, highlight=evaluation.name)
        content.append(f"<h3>{escape(words.get(facet, facet))}</h3>\n{made}")
    return section(words["facets"], "\n".join(content))


def _sweep(sweep: Sweep, words: Mapping[str, str]) -> str:
    names = ("coverage", "gini", "diversity", "novelty")
    has_groups = any(point.group_gap is not None for point in sweep.points)
    header = ["λ", words["ndcg"], words["against"], *(words[name] for name in names)]
    header += [words["group_gap"]] if has_groups else []
    rows = []
    for point in sweep.points:
        gap = point.against_none
        row = [f"{point.weight:g}", f"{point.ndcg:.4f}"]
        row.append(f"{gap.difference:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]")
        row += [f"{getattr(point, name):.4f}" for name in names]
        row += [f"{point.group_gap or 0:.4f}"] if has_groups else []
        rows.append([*row, "✓" if point.is_on_front else ""])
    reason = words["chosen" if sweep.recommended else "kept"]
    said = words["recommended"].replace("{weight}", f"{sweep.recommended:g}")
    made = table([*header, words["on_front"]], rows, highlight=f"{sweep.recommended:g}")
    text = escape(said.replace("{reason}", reason))
    return section(words["sweep"], f"{draw_sweep(sweep, words)}\n<p>{text}</p>\n{made}")


def _order_gate(gate: OrderGate, words: Mapping[str, str]) -> str:
    rows = [[words[name], f"{value:.4f}"] for name, value in gate.ndcg.items()]
    fall = gate.fall
    said = words[gate.verdict].replace("{users}", f"{gate.num_users:,}")
    interval = f"{fall.difference:+.4f} [{fall.low:+.4f}, {fall.high:+.4f}]"
    figures = words["fall"].replace("{users}", f"{gate.num_users:,}").replace("{fall}", interval)
    text = escape(f"{said} {figures}")
    return section(
        words["order_gate"], f"<p>{text}</p>\n{table([words['order'], words['ndcg']], rows)}"
    )


def _details(details: Mapping[str, object], words: Mapping[str, str]) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(words.get(name, name))}</td><td>{escape(_text(value))}</td></tr>"
        for name, value in details.items()
    )
    return section(words["details"], f'<table class="details">\n{rows}\n</table>')


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
