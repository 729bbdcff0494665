"""The model card: what a release is for, what it learned from, how good it is, and where not."""

import json
from dataclasses import replace
from pathlib import Path

from rec.artifacts import Artifact, read_artifact
from rec.ranking.current import current_release
from rec.stages.model_card import model_card
from rec.stages.releasing import CARD_FILE


def parents_of(workspace: Path, release: Artifact) -> tuple[Artifact, ...]:
    named = release.parents
    return tuple(
        read_artifact(workspace / room / named[room])
        for room in ("indexes", "reports", "events", "models")
    )


def test_card_holds_the_figures_of_its_own_artifacts(released_workspace: Path) -> None:
    release = read_artifact(current_release(released_workspace))
    card = (release.path / CARD_FILE).read_text(encoding="utf-8")
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    assert headings == ["## Intended use", "## Data", "## Figures", "## Fairness", "## Limits"]
    _, report, log, _ = parents_of(released_workspace, release)
    assert f"- Events: {log.counts['kept']:,} of {log.counts['users']:,} users" in card
    assert release.manifest["details"]["fingerprint"] in card
    metrics = report.manifest["details"]["metrics"]
    for name, values in metrics.items():
        [row] = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
        assert f"{values['ndcg@10']:.4f}" in row
    assert "User ids are stored keyed hashes." in card
    gate = report.manifest["details"]["order_gate"]
    assert f"{gate['ordered']:.4f}, {gate['shuffled']:.4f} with shuffled histories" in card


def test_card_of_a_log_that_has_no_order_says_nothing_of_it(released_workspace: Path) -> None:
    """Nobody has two events before the cut: there is no gate."""
    release = read_artifact(current_release(released_workspace))
    index, report, log, model = parents_of(released_workspace, release)
    manifest = json.loads(json.dumps(report.manifest))
    manifest["details"]["order_gate"] = None
    card = model_card(index, replace(report, manifest=manifest), log=log, model=model)
    assert "shuffled" not in card
    assert "## Limits" in card
