"""The fine-tuning job: Ray Train's worker learns what the same loop learns in one process."""

import json
import shutil
from pathlib import Path

import pytest

from jobs import finetune as job
from rec.stages.finetuned import find_finetuned
from tests.rec.encoders.test_finetuning import TINY, WORDS, make_workspace, settings_of, tune
from tests.rec.encoders.tiny import write_bert

pytestmark = pytest.mark.ray


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_worker_learns_what_one_process_learns_and_a_second_run_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_bert(tmp_path / "base", WORDS)
    workspace = make_workspace(tmp_path / "shop")
    alone = tmp_path / "alone"
    shutil.copytree(workspace, alone)
    words = [
        *("smoke", "--workspace", str(workspace), "--json"),
        *("--encoder.model", model, "--encoder.template", "{title}", "--encoder.max-tokens", "16"),
        *("--finetuning.num-rounds", str(TINY.num_rounds)),
        *("--finetuning.steps-per-round", str(TINY.steps_per_round)),
        *("--finetuning.batch-size", str(TINY.batch_size)),
        *("--finetuning.learning-rate", str(TINY.learning_rate)),
        *("--finetuning.max-events", str(TINY.max_events)),
    ]
    job.main(words)
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert "jobs.embed uses the tuned encoder from now on" in shown.err
    assert found["is_better"]
    assert not found["skipped"]
    settings = settings_of(model)
    expected = tune(alone, settings).manifest["details"]
    for name in ("before", "after"):
        assert found["ndcg@10"][name] == pytest.approx(expected["ndcg@10"][name], abs=0.02)
    assert find_finetuned(workspace, settings.encoder) is not None
    job.main(words)
    again = json.loads(capsys.readouterr().out)
    assert again["skipped"]
    assert again["fingerprint"] == found["fingerprint"]
