"""The enrichment job: a language model writes on the cluster's actors, as in one process."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from jobs import enrich as job
from rec.artifacts import latest_artifact
from rec.encoders.language_model import language_model_fingerprint
from rec.stages.enriching import ENRICHMENT_FILE, EnrichmentConfig, enrich
from tests.rec.encoders.test_enriching import ITEMS, prepare_items, write_language_model

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("ray_cluster")
def test_model_writes_on_actors_what_it_writes_in_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = pl.DataFrame(ITEMS, schema_overrides={"tags": pl.List(pl.String)})
    workspace = prepare_items(tmp_path, items)
    alone = tmp_path / "alone"
    shutil.copytree(workspace, alone)
    model = write_language_model(tmp_path / "model")
    words = ["smoke", "--workspace", str(workspace), "--enrichment.generator", model, "--json"]
    job.main(words)
    summary = json.loads(capsys.readouterr().out)
    assert summary["generator"]["generator"] == "model"
    assert summary["generator"]["fingerprint"] == language_model_fingerprint(model)
    assert summary["counts"]["generated"] == 3  # two of the four items say the same
    expected, _ = enrich(alone, config=EnrichmentConfig(generator=model))
    made = latest_artifact(workspace, "enrichments", made_by="enrich")
    assert made.name == expected.name
    ours, theirs = (pl.read_parquet(one.path / ENRICHMENT_FILE) for one in (made, expected))
    assert ours.equals(theirs)
    job.main(words)
    again = json.loads(capsys.readouterr().out)
    assert again["skipped"]
    assert again["counts"]["generated"] == 0
