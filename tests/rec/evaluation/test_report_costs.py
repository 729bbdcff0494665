"""The report's ledger of costs, and a Chinese page without English labels."""

import re
from pathlib import Path

import pytest

from rec.artifacts import latest_artifact
from rec.evaluation.report_costs import Cost, cost_section
from rec.evaluation.report_html import table
from rec.evaluation.report_words import WORDS
from rec.stages.costs import stage_costs


def test_ledger_says_what_a_million_comes_to() -> None:
    costs = [
        Cost(stage="encoding", num_units=20_000, unit="texts", wall_s=4.0, cpu_s=8.0, gpu_s=1.5),
        Cost(stage="training", num_units=0, unit="targets", wall_s=0.0, cpu_s=0.0),
    ]
    page = cost_section(costs, WORDS["en"])
    assert "<td>20,000 texts</td><td>4.0</td><td>8.0</td><td>1.5</td><td>400</td>" in page
    assert "<td>0 targets</td><td>0.0</td><td>0.0</td><td>0.0</td><td>–</td>" in page


def test_stages_are_read_from_what_they_left(trained_workspace: Path) -> None:
    model = latest_artifact(trained_workspace, "models", made_by="train")
    embeddings = latest_artifact(trained_workspace, "embeddings", made_by="embed")
    encoding, training = stage_costs(trained_workspace, embeddings=embeddings, model=model)
    assert encoding.num_units == embeddings.counts["encoded"] > 0
    assert training.unit == "targets"
    assert training.num_units > 1000
    assert training.cpu_s > 0


@pytest.mark.parametrize(
    ("name", "heading"), [("report.html", "Cost ledger"), ("report.zh.html", "成本账")]
)
def test_released_report_holds_it(released_workspace: Path, name: str, heading: str) -> None:
    report = latest_artifact(released_workspace, "reports", made_by="evaluate")
    page = (report.path / name).read_text(encoding="utf-8")
    assert f"<h2>{heading}</h2>" in page
    if name == "report.zh.html":
        labels = re.findall(r"<tr><td>([^<]*)</td>", page[page.index('class="details"') :])
        assert len(labels) > 8
        assert all(re.search("[一-鿿]", label) for label in labels), labels


def test_columns_may_break_where_their_names_do() -> None:
    assert '<th scope="col">group_<wbr>auc<wbr>@10</th>' in table(["group_auc@10"], [])
    assert "&lt;b&gt;" in table(["<b>"], [])
