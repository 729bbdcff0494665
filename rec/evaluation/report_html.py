"""The report's HTML: a section and a table, everything from outside escaped."""

from collections.abc import Iterable
from html import escape


def section(heading: str, content: str) -> str:
    """Return content under a heading."""
    return f"<h2>{escape(heading)}</h2>\n{content}"


def table(header: Iterable[str], rows: Iterable[list[str]], *, highlight: str | None = None) -> str:
    """Return a table that scrolls aside; the row that begins with ``highlight`` stands out."""
    head = "".join(f'<th scope="col">{_breakable(cell)}</th>' for cell in header)
    lines = []
    for row in rows:
        marked = ' class="ours"' if row[0] == highlight else ""
        lines.append(f"<tr{marked}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _breakable(name: str) -> str:
    """Return a column's name that may break before its ``@10`` and at ``_``, so columns are narrow.

    >>> _breakable("group_auc@10")
    'group_<wbr>auc<wbr>@10'
    """
    return escape(name).replace("_", "_<wbr>").replace("@", "<wbr>@")
