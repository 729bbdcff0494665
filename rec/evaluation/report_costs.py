"""The report's cost ledger: what each stage took, and what one unit of its work comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rec.evaluation.report_html import section, table


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Hold what a stage took.

    Attributes:
        stage: ``encoding``, ``training`` or ``evaluating``; a word of the report.
        num_units: what it worked through.
        unit: ``texts``, ``targets`` or ``lists``; a word of the report.
        wall_s: seconds of the clock.
        cpu_s: seconds of all processors.
        gpu_s: seconds of all GPUs; 0 where there is none.
    """

    stage: str
    num_units: int
    unit: str
    wall_s: float
    cpu_s: float
    gpu_s: float = 0.0


def cost_section(costs: Sequence[Cost], words: Mapping[str, str]) -> str:
    """Return the ledger as a table; a stage that found everything done has cost nothing."""
    header = [words[name] for name in ("stage", "work", "wall_s", "cpu_s", "gpu_s", "per_million")]
    rows = [
        [
            words[cost.stage],
            f"{cost.num_units:,} {words[cost.unit]}",
            f"{cost.wall_s:,.1f}",
            f"{cost.cpu_s:,.1f}",
            f"{cost.gpu_s:,.1f}",
            f"{1e6 * cost.cpu_s / cost.num_units:,.0f}" if cost.num_units else "–",
        ]
        for cost in costs
    ]
    note = f"<p>{escape(words['cost_note'])}</p>"
    return section(words["costs"], f"{table(header, rows)}\n{note}")
