"""The model card of a release: what it is for, what it has learned from, how good it is, where not.

Source: Mitchell et al. 2019, Model cards for model reporting.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from rec.artifacts import Artifact
from rec.evaluation.comparing import METRICS_FILE

_FIRST = ("ndcg@10", "recall@10", "mrr@10", "coverage@10")
"""Columns that stand first in the table."""


def model_card(index: Artifact, report: Artifact, *, log: Artifact, model: Artifact) -> str:
    """Return the card as Markdown.

    Args:
        index: of the release.
        report: of that index.
        log: the events that the index names.
        model: the model that the index names.
    """
    found = json.loads((report.path / METRICS_FILE).read_text(encoding="utf-8"))
    parts = [
        [f"# Model card: {index.name}"],
        _use(),
        _data(index, log, model),
        _figures(report, found),
        _fairness(found),
        _limits(report),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _use() -> list[str]:
    return [
        "## Intended use",
        "",
        "Lists of items of this catalog for users of this shop, explained and with logged",
        "propensities. Not for: another catalog, decisions about people (credit, work, health), or",
        "conclusions about what a user is; a list says what was taken next by users like them.",
    ]


def _data(index: Artifact, log: Artifact, model: Artifact) -> list[str]:
    counts, details = log.counts, log.manifest["details"]
    kinds = ", ".join(f"{name} {number:,}" for name, number in counts["event_types"].items())
    bad = sum(counts["quarantined"].values())
    names = "keyed hashes" if details["pseudonymized"] else "as they came"
    return [
        "## Data",
        "",
        f"- Events: {counts['kept']:,} of {counts['users']:,} users, {_day(details['first_ms'])} "
        f"to {_day(details['last_ms'])}: {kinds}.",
        f"- Left out: {counts['duplicates']:,} duplicates, {bad:,} rows in quarantine (reasons and "
        f"samples: `events/{log.name}/data_card.html`).",
        f"- Items: {index.counts['items']:,}. User ids are stored {names}.",
        f"- Learned from {model.counts['training_events']:,} events before the temporal cut "
        f"({_day(model.manifest['details']['cut_ms'])}); the served weights then went on over the "
        "newest ones, which no figure here measures.",
        f"- Encoder fingerprint: {index.manifest['details']['fingerprint']}.",
    ]


def _figures(report: Artifact, found: Mapping[str, Any]) -> list[str]:
    metrics = report.manifest["details"]["metrics"]
    held = list(next(iter(metrics.values())))
    columns = [name for name in _FIRST if name in held]
    columns += [name for name in held if name not in columns]
    order = sorted(metrics, key=lambda name: -metrics[name][columns[0]])
    lines = [
        "## Figures",
        "",
        f"{report.counts['users']:,} test users. Protocol: {found['protocol']}, full catalog.",
        "",
        "| model | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in order:
        cells = " | ".join(f"{metrics[name][column]:.4f}" for column in columns)
        lines.append(f"| {name} | {cells} |")
    lines += [
        "",
        "accuracy is degenerate for lists; group_auc and roc_auc count what is outside a list as",
        "ties.",
    ]
    if found["calibration"] is not None:
        error = found["calibration"]["error"]
        lines.append(f"Calibration of shown items: predicted and observed differ by {error:.4f}.")
    if found["sweep"] is not None:
        sweep = found["sweep"]
        lines.append(
            f"Popularity's lambda: {sweep['recommended']:g} recommended: {sweep['reason']}."
        )
    return lines


def _fairness(found: Mapping[str, Any]) -> list[str]:
    gap = None if found["sweep"] is None else found["sweep"]["points"][0]["group_gap"]
    measured = (
        "The items name no groups: nothing is measured about fairness to providers."
        if gap is None
        else f"A group's share of exposure is at most {gap:.4f} from its share of the catalog, at "
        "lambda 0."
    )
    return [
        "## Fairness",
        "",
        measured,
        "The report has slices by history length, language, item frequency, warmth and group, and",
        "how much more the most popular items are shown than asked for.",
    ]


def _limits(report: Artifact) -> list[str]:
    return [
        "## Limits",
        "",
        "- Users without events get what users of their attributes like, else what is popular.",
        "- Intervals know the luck of which users were met, not of seeds or season.",
        *_order(report.manifest["details"].get("order_gate")),
    ]


_VERDICTS = {
    "passed": "order counts",
    "failed": "it uses order hardly or not at all",
    "unsure": "too few users, or too bad lists, to tell if order counts",
}


def _order(gate: Mapping[str, Any] | None) -> Iterator[str]:
    if gate is None:  # not asked for, or nobody has two events
        return
    figures = f"{gate['ordered']:.4f}, {gate['shuffled']:.4f} with shuffled histories"
    users = f"{gate['users']:,} users with two events or more"
    yield f"- NDCG@10 of its lists is {figures} ({users}): {_VERDICTS[gate['verdict']]}."


def _day(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms / 1000, tz=UTC).date().isoformat()
