"""The text tower: nothing is trained, and an item is found by what it is called."""

import json
from pathlib import Path

import numpy as np
import pytest

from rec.artifacts import latest_artifact
from rec.encoders import EncoderConfig, load_encoder
from rec.encoders.encoder import make_spec
from rec.models.baselines import ScoredLists
from rec.models.text_tower import TextTower
from rec.stages.evaluating import METRICS_FILE, EvaluationConfig, evaluate_index
from tests.rec.models.logs import sequences_of

TITLES = ["red dress", "red dress in linen", "desk lamp", "brass desk lamp", "blue coat"]


@pytest.fixture(scope="module")
def tower() -> TextTower:
    spec = make_spec(EncoderConfig(model="hashing"))
    encoder = load_encoder(spec)
    return TextTower(encoder, spec, titles=TITLES, items=encoder.encode(TITLES))


def test_an_item_that_nobody_had_is_found_by_its_text(tower: TextTower) -> None:
    histories = sequences_of([[1], [3]], num_items=5)
    lists = ScoredLists(tower).top_k(histories, k=1, exclude_seen=True)
    assert lists.tolist() == [[2], [4]]


def test_company_changes_nothing_and_a_stranger_gets_zeros(tower: TextTower) -> None:
    rows = [[1, 3, 5], [], [4]]
    together = tower.score(sequences_of(rows, num_items=5))
    alone = np.concatenate([tower.score(sequences_of([row], num_items=5)) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert not together[1].any()


def test_the_report_measures_it_where_asked(released_workspace: Path) -> None:
    made_by = latest_artifact(released_workspace, "reports", made_by="evaluate")
    report, _ = evaluate_index(released_workspace, EvaluationConfig(text_tower=True))
    metrics = json.loads((report.path / METRICS_FILE).read_text())
    try:
        assert metrics["metrics"]["text_tower"]["ndcg@10"] > 0
        gates = metrics["tower_gates"]
        assert set(gates) == {"attention", "text_tower"}
        # What is trained on the order needs it; a sentence's n-grams hardly do.
        assert gates["attention"]["shuffled"] < 0.5 * gates["attention"]["ordered"]
        assert gates["text_tower"]["shuffled"] > 0.5 * gates["text_tower"]["ordered"]
        assert "text_tower" in (report.path / "report.html").read_text()
    finally:  # the session's release keeps its own report
        (released_workspace / "reports" / "latest").write_text(made_by.name)
