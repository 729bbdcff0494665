"""A workspace of an older version: what can be read is, and what is refused says how to go on.

``tests/rec/data/older_workspace.zip`` was written by the code of commit 6968f5e: an event log of
format 0, prepared files, embeddings, and a release of towers that are shaped otherwise now.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from rec.artifacts import latest_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.events import Event
from rec.encoders import EncoderConfig
from rec.errors import ArtifactError
from rec.ranking.current import current_release
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.feedback.history import HistoryStore
from rec.ranking.feedback.item_changes import ItemChanges
from rec.ranking.release import read_release_files
from rec.stages.embedding import embed, load_embeddings
from rec.stages.ingesting import ingest
from rec.stages.preparation import prepare

BOUGHT = ("item/0", "item/1", "item/2")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    with zipfile.ZipFile(Path(__file__).parents[1] / "data" / "older_workspace.zip") as packed:
        packed.extractall(tmp_path)
    (tmp_path / "workspace" / "pseudonym.key").chmod(0o600)
    return tmp_path


def test_event_log_is_read_and_written_on(older: Path) -> None:
    log = EventLog(older / "workspace" / LOG_FILE)
    assert log.connection().execute("PRAGMA user_version").fetchone() == (0,)
    assert [event.item_id for _, event in log.read_after(0, 10)] == list(BOUGHT)
    assert ItemChanges(log).after(0) == []
    event = Event(user_id="user-1", event_type="view", timestamp_ms=2 * 10**12, item_id="item/9")
    log.append([event])
    history = HistoryStore(log).history("user-1", limit=10)
    assert [event.item_id for event in history] == [*BOUGHT, "item/9"]


def test_release_is_refused_and_its_log_makes_the_next_one(older: Path) -> None:
    workspace = older / "workspace"
    with pytest.raises(ArtifactError, match=r"another version of nextray: run jobs\.pipeline aga"):
        read_release_files(current_release(workspace))
    before, _ = load_embeddings(latest_artifact(workspace, "embeddings", made_by="embed"))
    assert ingest(workspace)["events"] == len(BOUGHT)
    prepared = prepare(
        workspace,
        events=[str(older / "files" / "events.csv")],
        items=[str(older / "files" / "items.csv")],
        config=CleaningConfig(),
        num_partitions=1,
    )
    assert prepared.events.counts["event_types"] == {"purchase": 3, "view": 20}
    artifact, _ = embed(workspace, config=EncoderConfig(model="hashing"))
    after, _ = load_embeddings(artifact)
    assert after.shape == before.shape == (12, 384)
    assert np.isfinite(after).all()
