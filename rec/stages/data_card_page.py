"""The data card as one HTML page that needs nothing else, in English or Chinese.

No JavaScript, no fonts, no links; everything that comes from the log is escaped, and a content
security policy forbids the rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Literal

PageLanguage = Literal["en", "zh"]

_WORDS: dict[PageLanguage, dict[str, str]] = {
    "en": {
        "lang": "en",
        "title": "Data card",
        "summary": "{kept} of {rows_in} rows kept; {users} users, {items} items; {first} to {last}",
        "warnings": "Worth a look",
        "heavy_user": "One user ({user_id}) has {share} of all events: a bot, a till, a test?",
        "bot_user": "User {user_id} is a bot: {number} events, all set aside.",
        "bot_days": "{number} user days have more events than the limit (a bot's).",
        "ties": "{share} of the events share user and millisecond with another: their order is "
        "unknown.",
        "quarantined": "{share} of the rows are quarantined.",
        "near_duplicates": "{number} items say nearly the same as another one.",
        "rows": "What became of the rows",
        "reason": "reason",
        "number": "rows",
        "sample": "for instance",
        "kept": "kept",
        "duplicates": "duplicate",
        "quarantined_rows": "quarantined",
        "event_types": "Event types",
        "months": "Events by month (UTC)",
        "lengths": "Events per user (number of users)",
        "users": "Users with most events",
        "user": "user (as stored)",
        "events": "events",
        "share": "share",
        "facts": "In numbers",
        "sessions": "sessions",
        "top": "share of the heaviest 1 % of users",
        "tie_share": "share of tied events",
        "without": "items without events",
        "gini": "Gini of events over items (0 even, 1 all on one)",
        "user_quantiles": "events per user, 0 / 25 / 50 / 75 / 90 / 99 / 100 %",
        "item_quantiles": "events per item, 0 / 25 / 50 / 75 / 90 / 99 / 100 %",
        "languages": "Languages",
        "titles": "titles",
        "queries": "queries",
        "duplicates_heading": "Items that say nearly the same",
        "not_searched": "Too many items, or too many alike: near duplicates were not searched.",
        "groups": "{groups} groups with {items} items, the largest {largest}. Nothing was deleted.",
    },
    "zh": {
        "lang": "zh-CN",
        "title": "数据卡片",
        "summary": "共 {rows_in} 行，保留 {kept} 行；用户 {users}，商品 {items}；{first} 至 {last}",
        "warnings": "值得注意",
        "heavy_user": "单个用户（{user_id}）占全部事件的 {share}：是机器人、收银台还是测试账号？",
        "bot_user": "用户 {user_id} 是机器人：{number} 个事件，全部隔离。",
        "bot_days": "有 {number} 个“用户日”的事件数超过上限（疑似机器人）。",
        "ties": "{share} 的事件与同一用户的其他事件时间相同（毫秒级），先后顺序未知。",
        "quarantined": "{share} 的行被隔离。",
        "near_duplicates": "{number} 个商品与其他商品的文字几乎相同。",
        "rows": "各行的去向",
        "reason": "原因",
        "number": "行数",
        "sample": "示例",
        "kept": "保留",
        "duplicates": "重复",
        "quarantined_rows": "隔离",
        "event_types": "事件类型",
        "months": "各月事件数（UTC）",
        "lengths": "每名用户的事件数（用户数）",
        "users": "事件最多的用户",
        "user": "用户（存储的标识）",
        "events": "事件数",
        "share": "占比",
        "facts": "关键数字",
        "sessions": "会话数",
        "top": "事件最多的 1% 用户所占比例",
        "tie_share": "时间相同的事件比例",
        "without": "没有事件的商品",
        "gini": "事件在商品上的基尼系数（0 均匀，1 集中）",
        "user_quantiles": "每名用户事件数，0 / 25 / 50 / 75 / 90 / 99 / 100 %",
        "item_quantiles": "每个商品事件数，0 / 25 / 50 / 75 / 90 / 99 / 100 %",
        "languages": "语言",
        "titles": "标题",
        "queries": "搜索词",
        "duplicates_heading": "文字几乎相同的商品",
        "not_searched": "商品过多或相似标题过多，未查找近似重复。",
        "groups": "{groups} 组，共 {items} 个商品，最大一组 {largest} 个。未删除任何商品。",
    },
}
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5c6675;--line:#d9dee6;--paper:#fff;
--bar:#1f6feb}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#2d3541;
--paper:#12161c;--bar:#58a6ff}}
body{font:16px/1.5 system-ui,"Noto Sans CJK SC","PingFang SC",sans-serif;color:var(--ink);
background:var(--paper);max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem;font-size:1.2rem}p{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .5rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}td:last-child{overflow-wrap:anywhere}
svg{width:100%;max-width:48rem;height:auto}svg text{fill:var(--ink);font-size:13px}
rect{fill:var(--bar)}
@media print{body{font-size:10pt;max-width:none;margin:0;padding:0}tr,svg{break-inside:avoid}
rect{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""".strip()
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LABEL, _PLOT, _WIDTH, _ROW = 130, 440, 680, 24  # pixels of a drawing, before it is scaled
_MAX_SAMPLE = 200


def render_card(card: Mapping[str, Any], *, language: PageLanguage = "en") -> str:
    """Return one self-contained HTML page of a :func:`rec.stages.data_card.make_card`."""
    words = _WORDS[language]
    users = card["users"]
    sections = [
        f"<h1>{words['title']}</h1>",
        f"<p>{escape(_summary(card, words))}</p>",
        _warnings(card["warnings"], words),
        _section(words["rows"], _rows(card, words)),
        _section(words["event_types"], _bars(card["event_types"], words["event_types"])),
        _section(words["months"], _bars(card["time"]["months"], words["months"])),
        _section(words["lengths"], _bars(_lengths(users), words["lengths"])),
        _section(words["facts"], _facts(card, words)),
        _section(
            words["users"],
            _table(
                [words["user"], words["events"], words["share"]],
                [
                    [u["user_id"], f"{u['events']:,}", _percent(u["share"])]
                    for u in users["heaviest"]
                ],
            ),
        ),
        _section(words["languages"], _languages(card["languages"], words)),
        _section(words["duplicates_heading"], _duplicates(card["near_duplicates"], words)),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        f'<!DOCTYPE html>\n<html lang="{words["lang"]}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{words['title']}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _summary(card: Mapping[str, Any], words: Mapping[str, str]) -> str:
    return words["summary"].format(
        kept=f"{card['rows']['kept']:,}",
        rows_in=f"{card['rows']['rows_in']:,}",
        users=f"{card['users']['users']:,}",
        items=f"{card['items']['items']:,}",
        first=str(card["time"]["first"])[:10],
        last=str(card["time"]["last"])[:10],
    )


def _warnings(warnings: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    if not warnings:
        return ""
    lines = []
    for warning in warnings:
        values = {name: value for name, value in warning.items() if name != "code"}
        if "share" in values:
            values["share"] = _percent(values["share"])
        lines.append(f"<li>{escape(words[warning['code']].format(**values))}</li>")
    return _section(words["warnings"], f"<ul>\n{''.join(lines)}\n</ul>")


def _rows(card: Mapping[str, Any], words: Mapping[str, str]) -> str:
    rows = [[words["kept"], "", f"{card['rows']['kept']:,}", ""]]
    for kind, label in (("duplicates", "duplicates"), ("quarantined", "quarantined_rows")):
        for reason, number in card["rows"][kind].items():
            sample = next(iter(card["samples"].get(reason, [])), "")
            rows.append([words[label], reason, f"{number:,}", sample[:_MAX_SAMPLE]])
    return _table(["", words["reason"], words["number"], words["sample"]], rows)


def _lengths(users: Mapping[str, Any]) -> dict[str, int]:
    return {
        str(b["to"]) if b["from"] == b["to"] else f"{b['from']}–{b['to']}": b["users"]
        for b in users["sequence_lengths"]
    }


def _facts(card: Mapping[str, Any], words: Mapping[str, str]) -> str:
    users, items = card["users"], card["items"]
    facts = {
        "sessions": f"{users['sessions']:,}",
        "top": _percent(users["top_percent_share"]),
        "tie_share": _percent(card["tie_share"]),
        "without": f"{items['without_events']:,}",
        "gini": f"{items['gini']:.3f}",
        "user_quantiles": _joined(users["events_per_user_quantiles"].values()),
        "item_quantiles": _joined(items["events_per_item_quantiles"].values()),
    }
    return _table(None, [[words[name], value] for name, value in facts.items()])


def _languages(languages: Mapping[str, Mapping[str, int]], words: Mapping[str, str]) -> str:
    names = sorted({name for counts in languages.values() for name in counts})
    rows = [
        [words[kind], *(f"{counts.get(name, 0):,}" for name in names)]
        for kind, counts in (("titles", languages["titles"]), ("queries", languages["queries"]))
    ]
    return _table(["", *names], rows)


def _duplicates(found: Mapping[str, Any], words: Mapping[str, str]) -> str:
    if not found["is_searched"]:
        return f"<p>{escape(words['not_searched'])}</p>"
    text = f"<p>{escape(words['groups'].format(**found))}</p>"
    rows = [
        [" · ".join(f"{item['item_id']}: {item['title'][:80]}" for item in group)]
        for group in found["examples"]
    ]
    return text + ("\n" + _table(None, rows) if rows else "")


def _bars(counts: Mapping[str, int], caption: str) -> str:
    """Draw a bar a name, in the given order."""
    largest = max(counts.values(), default=1)
    lines = []
    for place, (name, number) in enumerate(counts.items()):
        top = place * _ROW
        label = name if len(name) <= 16 else f"{name[:15]}…"
        width = number / largest * _PLOT
        lines.append(
            f'<text x="{_LABEL - 8}" y="{top + 16}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{_LABEL}" y="{top + 4}" width="{width:.1f}" height="{_ROW - 8}"/>'
            f'<text x="{_LABEL + width + 6:.1f}" y="{top + 16}">{number:,}</text>'
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {len(counts) * _ROW}" role="img" '
        f'aria-label="{escape(caption)}">\n' + "\n".join(lines) + "\n</svg>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _joined(values: Iterable[int]) -> str:
    return " / ".join(f"{value:,}" for value in values)


def _section(heading: str, content: str) -> str:
    return f"<h2>{escape(heading)}</h2>\n{content}"


def _table(header: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> str:
    head = ""
    if header is not None:
        cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
        head = f"<tr>{cells}</tr>\n"
    body = "\n".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="wide"><table>\n{head}{body}\n</table></div>'
