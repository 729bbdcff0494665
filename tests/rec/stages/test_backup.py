import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from rec.artifacts import file_sha256, read_artifact, write_artifact, write_json
from rec.data.events import Event
from rec.data.private_files import create_private_file
from rec.errors import ArtifactError, ConfigError
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.stages.backing_up import BACKUP_FILE, backup, restore
from rec.stages.erasing import erase
from rec.stages.erasing_again import stored_users
from rec.stages.ingesting import ingest, last_ingested
from tests.rec.stages.test_erasing import ERIN, fill, run_prepare, stored_id


def event(number: int) -> Event:
    return Event(
        user_id="u", event_type="view", timestamp_ms=number, item_id="i", event_id=f"e{number}"
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    with write_artifact(folder, "models", config={"width": 8}, parents={}) as draft:
        (draft.path / "weights").write_bytes(bytes(1000))
    write_json(folder / "current", {"release": "abc", "previous": []})
    create_private_file(folder / "pseudonym.key", "00" * 32)
    log = EventLog(folder / LOG_FILE)
    log.append([event(number) for number in range(50)])
    log.close()
    return folder


def test_backup_under_writes_is_whole_up_to_one_event(workspace: Path, tmp_path: Path) -> None:
    stop, done = threading.Event(), threading.Event()

    def write() -> None:
        log = EventLog(workspace / LOG_FILE)
        number = 50
        while not stop.is_set():
            log.append([event(number), event(number + 1)])
            number += 2
            if number % 20 == 0:
                ingest(workspace)
                done.set()
        log.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert done.wait(30)
        content = backup(workspace, tmp_path / "backup")
    finally:
        stop.set()
        writer.join()
    restored = tmp_path / "restored"
    restore(tmp_path / "backup", restored)
    log = EventLog(restored / LOG_FILE)
    found = [one.event_id for _, one in log.read_after(0, 1_000_000)]
    assert found == [f"e{number}" for number in range(len(found))]
    assert content["last_seq"] == log.last_seq() >= 60
    # No batch holds what the log does not: nothing is lost and nothing is taken twice.
    assert 0 < last_ingested(restored) <= log.last_seq()
    before = last_ingested(restored)
    assert ingest(restored)["events"] == log.last_seq() - before
    log.close()


def test_restored_workspace_is_the_same_and_lives_on_its_own(
    workspace: Path, tmp_path: Path
) -> None:
    content = backup(workspace, tmp_path / "backup")
    assert content["release"] == "abc"
    [manifest] = (tmp_path / "backup" / "models").glob("*/manifest.json")
    [original] = (workspace / "models").glob("*/manifest.json")
    assert manifest.stat().st_ino == original.stat().st_ino  # no space for what never changes
    shutil.rmtree(workspace)
    restore(tmp_path / "backup", workspace)
    read_artifact(original.parent, verify=True)
    assert original.stat().st_ino != manifest.stat().st_ino
    assert json.loads((workspace / "current").read_text())["release"] == "abc"
    assert (workspace / "pseudonym.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0


def test_damaged_or_foreign_backup_leaves_nothing(workspace: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "backup", tmp_path / "restored"
    backup(workspace, source)
    content = json.loads((source / BACKUP_FILE).read_text())
    key = source / "pseudonym.key"
    key.write_text("11" * 32)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        restore(source, target)
    key.unlink()
    key.symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match=r"outside: pseudonym\.key"):
        restore(source, target)
    key.unlink()
    os.mkfifo(key)
    with pytest.raises(ArtifactError, match="is missing"):
        restore(source, target)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of someone else")
    (source / "catalog").symlink_to(outside)
    names = {"catalog/secret": file_sha256(outside / "secret")}
    write_json(source / BACKUP_FILE, {**content, "files": names})
    with pytest.raises(ArtifactError, match="names a file outside: catalog/secret"):
        restore(source, target)
    write_json(source / BACKUP_FILE, {**content, "files": {"../outside": "0"}})
    with pytest.raises(ArtifactError, match="names a file outside"):
        restore(source, target)
    write_json(source / BACKUP_FILE, {**content, "format": 2})
    with pytest.raises(ArtifactError, match="has format 2, this version reads 1"):
        restore(source, target)
    assert not target.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"workspace", "backup", "outside"}


def test_places_that_are_taken_are_refused(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inside the workspace"):
        backup(workspace, workspace / "backup")
    backup(workspace, tmp_path / "backup")
    with pytest.raises(ConfigError, match="there already"):
        backup(workspace, tmp_path / "backup")
    with pytest.raises(ConfigError, match="holds something"):
        restore(tmp_path / "backup", workspace)
    with pytest.raises(ConfigError, match="found none"):
        backup(tmp_path / "nothing", tmp_path / "other")


@pytest.mark.parametrize("is_pseudonymized", [True, False])
def test_restoring_brings_no_erased_user_back(tmp_path: Path, *, is_pseudonymized: bool) -> None:
    workspace, source = tmp_path / "workspace", tmp_path / "backup"
    fill(workspace, tmp_path / "files", is_pseudonymized=is_pseudonymized)
    backup(workspace, source)
    kept = stored_users(workspace)
    stored = stored_id(workspace, ERIN, is_pseudonymized=is_pseudonymized)
    assert stored in kept
    _, receipt = erase(workspace, [ERIN])
    assert receipt["backups"] == {"noted": [str(source)], "missing": []}
    shutil.rmtree(workspace)
    content = restore(source, workspace)
    assert content["erased_again"] > 0
    assert stored_users(workspace) == kept - {stored}
    assert not any(
        stored.encode() in path.read_bytes() for path in workspace.rglob("*") if path.is_file()
    )
    # Nor does the next preparation, from the same input files.
    run_prepare(workspace, tmp_path / "files", is_pseudonymized=is_pseudonymized)
    assert stored not in stored_users(workspace)


def test_backup_out_of_reach_is_named_in_the_receipt(tmp_path: Path) -> None:
    workspace, source = tmp_path / "workspace", tmp_path / "backup"
    fill(workspace, tmp_path / "files", is_pseudonymized=True)
    backup(workspace, source)
    source.rename(tmp_path / "in the cellar")
    _, receipt = erase(workspace, [ERIN])
    assert receipt["backups"] == {"noted": [], "missing": [str(source)]}
