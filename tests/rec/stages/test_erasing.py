import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from rec.artifacts import MANIFEST, read_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.events import Event, Impression
from rec.data.privacy import load_or_create_key, pseudonym
from rec.data.sequences import load_sequences
from rec.encoders import EncoderConfig
from rec.errors import ArtifactError, ConfigError
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.feedback.history import HistoryStore, base_histories
from rec.stages.embedding import embed, load_embeddings
from rec.stages.erasing import erase
from rec.stages.exporting import export_user
from rec.stages.ingesting import ingest
from rec.stages.preparation import KEY_FILE, Prepared, prepare
from rec.stages.recommending import recommend

ERIN = "erin-the-erased"
QUERY = "velvet chandelier for a yacht"
"""What only this user has asked."""
NUM_PARTITIONS = 3
START_MS = 1_735_700_000_000


def write_log(folder: Path) -> None:
    """Write a log in which one user has good and bad rows, a query of her own and a shared one."""
    folder.mkdir(parents=True, exist_ok=True)
    items = [f"item-{number}" for number in range(12)]
    titles = [f"red lamp {number}" for number in range(12)]
    pl.DataFrame({"item_id": items, "title": titles}).write_parquet(folder / "items.parquet")
    users = [ERIN, *(f"user-{number}" for number in range(9))]
    pl.DataFrame({"user_id": users, "age": list(range(10))}).write_parquet(folder / "users.parquet")
    rows = [
        {
            "user_id": user,
            "item_id": items[(7 * place + n) % 12],
            "timestamp": START_MS + 60 * place,
        }
        for n, user in enumerate(users)
        for place in range(40 if user == ERIN else 8)
    ]
    searches = [(ERIN, QUERY), (ERIN, "lamp"), ("user-1", "lamp"), ("user-2", "amber")]
    rows += [
        {"user_id": user, "query": query, "event_type": "search", "timestamp": START_MS + 9000}
        for user, query in searches
    ]
    rows.append({"user_id": ERIN, "item_id": "no-such-item", "timestamp": START_MS})
    rows.append({"user_id": "user-1", "item_id": "no-such-item", "timestamp": START_MS})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    text += f'{{"user_id": "{ERIN}", "item_id": "item-1", broken\n'
    (folder / "events.jsonl").write_text(text)


def run_prepare(workspace: Path, files: Path, *, is_pseudonymized: bool) -> Prepared:
    return prepare(
        workspace,
        events=[str(files / "events.jsonl")],
        items=[str(files / "items.parquet")],
        users=[str(files / "users.parquet")],
        config=CleaningConfig(pseudonymize_users=is_pseudonymized, max_bad_ratio=0.5),
        num_partitions=NUM_PARTITIONS,
    )


def stored_id(workspace: Path, user_id: str, *, is_pseudonymized: bool) -> str:
    if not is_pseudonymized:
        return user_id
    return pseudonym(user_id, load_or_create_key(workspace / KEY_FILE))


def feedback(user: str, number: int, *, query: str = QUERY) -> Event:
    return Event(
        user_id=user,
        event_type="search",
        timestamp_ms=START_MS + 20_000 + number,
        query=query,
        event_id=f"late-{user}-{number}",
    )


def fill(workspace: Path, files: Path, *, is_pseudonymized: bool) -> None:
    """Make everything that holds users: artifacts, log, history, batches, impressions, lists."""
    write_log(files)
    prepared = run_prepare(workspace, files, is_pseudonymized=is_pseudonymized)
    embed(workspace, config=EncoderConfig(model="hashing"))
    user, other = (
        stored_id(workspace, name, is_pseudonymized=is_pseudonymized) for name in (ERIN, "user-3")
    )
    log = EventLog(workspace / LOG_FILE)
    log.append([feedback(user, 1), feedback(other, 2, query="amber")])
    ingest(workspace)
    log.append([feedback(user, 3)])
    log.append_impressions(
        [
            Impression(
                impression_id=f"shown-{user}",
                request_id="r",
                user_id=user,
                timestamp_ms=START_MS,
                item_ids=("item-1",),
                positions=(1,),
                propensities=(1.0,),
                scores=(0.5,),
                release="rel",
            )
        ]
    )
    sequences = load_sequences(prepared.sequences.path)
    items = [f"item-{number}" for number in range(12)]
    histories = base_histories(sequences, item_ids=items, limit=50)
    HistoryStore(log).load_base(histories, release="rel", ingested_through=0)
    log.close()
    lists = pl.DataFrame({"user_id": [user, other], "position": [1, 1], "item_id": items[:2]})
    lists.write_parquet(workspace / "lists.parquet")


def traces(workspace: Path, words: list[str]) -> set[str]:
    """Return the files whose bytes or whose Parquet values hold one of the words."""
    found = set()
    for path in (path for path in workspace.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += repr(pq.read_table(path).to_pydict()).encode()
        if any(word.encode() in content for word in words):
            found.add(str(path.relative_to(workspace)))
    return found


def contents(workspace: Path) -> dict[str, object]:
    """Return what a workspace holds, without what differs from run to run."""
    found: dict[str, object] = {}
    for path in sorted(path for path in workspace.rglob("*") if path.is_file()):
        name = str(path.relative_to(workspace))
        if path.suffix == ".parquet":
            found[name] = pq.read_table(path).to_pydict()
        elif not name.startswith(("erasures/receipt", "erasures/lock", "feedback/events.db")):
            found[name] = path.read_text() if path.suffix in (".json", ".html") else ""
    return found


@pytest.fixture(params=[True, False], ids=["pseudonyms", "plain"])
def is_pseudonymized(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_no_byte_of_an_erased_user_is_left(tmp_path: Path, *, is_pseudonymized: bool) -> None:
    workspace, files = tmp_path / "workspace", tmp_path / "files"
    fill(workspace, files, is_pseudonymized=is_pseudonymized)
    user = stored_id(workspace, ERIN, is_pseudonymized=is_pseudonymized)
    words = [ERIN, user, QUERY]
    before = traces(workspace, words)
    # The test can fail: every kind of file holds the user now.
    for room in ("events/", "sequences/", "catalog/", "feedback/batches/", "feedback/events.db"):
        assert any(name.startswith(room) for name in before), room
    assert "lists.parquet" in before
    path, receipt = erase(workspace, [ERIN])
    assert traces(workspace, words) == set()
    assert receipt["left"] == []
    assert json.loads(path.read_text()) == receipt
    assert set(receipt["files"]) >= {"lists.parquet", "feedback/events.db"}
    assert receipt["rows"]["sequences"] == 1
    assert receipt["queries"] == 1


def test_artifacts_stay_whole_and_others_stay_in_them(
    tmp_path: Path, *, is_pseudonymized: bool
) -> None:
    workspace, files = tmp_path / "workspace", tmp_path / "files"
    fill(workspace, files, is_pseudonymized=is_pseudonymized)
    before = contents(workspace)
    erase(workspace, [ERIN])
    manifests = sorted(workspace.glob(f"*/*/{MANIFEST}"))
    assert len(manifests) == 4
    for manifest in manifests:
        read_artifact(manifest.parent, verify=True)
    gone = stored_id(workspace, ERIN, is_pseudonymized=is_pseudonymized)
    for name, content in contents(workspace).items():
        if name.startswith(("events/", "catalog/", "feedback/batches/")) and isinstance(
            content, dict
        ):
            old = before[name]
            assert isinstance(old, dict)
            users, known = (
                [user for user in table.get("user_id", ()) if user] for table in (content, old)
            )
            assert users == [user for user in known if user != gone]
    [log] = [m.parent for m in manifests if m.parent.parent.name == "events"]
    counts = read_artifact(log).counts
    assert counts["rows_in"] == (
        counts["kept"] + counts["duplicates"] + sum(counts["quarantined"].values())
    )
    assert counts["users"] == 9
    # Later stages still work on what is there.
    artifact, is_skipped = embed(workspace, config=EncoderConfig(model="hashing"))
    assert is_skipped
    queries = load_sequences(next((workspace / "sequences").glob("[!.]*/")).resolve()).queries
    norms = (load_embeddings(artifact)[1] ** 2).sum(axis=1)
    assert sorted(queries) == ["", "amber", "lamp"]
    assert [bool(norm) for norm in norms] == [bool(query) for query in queries]


def test_same_input_files_and_later_feedback_bring_nobody_back(
    tmp_path: Path, *, is_pseudonymized: bool
) -> None:
    workspace, files = tmp_path / "workspace", tmp_path / "files"
    fill(workspace, files, is_pseudonymized=is_pseudonymized)
    erase(workspace, [ERIN])
    user = stored_id(workspace, ERIN, is_pseudonymized=is_pseudonymized)
    log = EventLog(workspace / LOG_FILE)
    log.append([feedback(user, 99)])
    log.close()
    ingest(workspace)
    prepared = run_prepare(workspace, files, is_pseudonymized=is_pseudonymized)
    assert not prepared.is_skipped
    found = traces(workspace, [ERIN, user])
    assert all(name.startswith("feedback/") for name in found)
    sequences = load_sequences(prepared.sequences.path)
    assert user not in sequences.user_ids
    assert len(sequences.user_ids) == 9
    # Of a line that could not be read only the shape is kept where ids are pseudonyms.
    unreadable = {"not_json": 1} if is_pseudonymized else {}
    assert prepared.events.counts["quarantined"] == {"unknown_item": 1, **unreadable}
    # The feedback that came later goes with the next erasure.
    erase(workspace, [ERIN])
    assert traces(workspace, [ERIN, user]) == set()


def test_erased_events_are_those_of_a_preparation_without_the_user(tmp_path: Path) -> None:
    workspace, files = tmp_path / "workspace", tmp_path / "files"
    write_log(files)
    run_prepare(workspace, files, is_pseudonymized=True)
    erase(workspace, [ERIN])
    [erased] = (workspace / "events").glob("[!.]*/data_card.json")
    again = run_prepare(workspace, files, is_pseudonymized=True).events.path / "data_card.json"
    assert again != erased
    assert json.loads(again.read_text()) == json.loads(erased.read_text())
    for part in sorted(erased.parent.glob("part-*.parquet")):
        # The number of the file that a row stands in is the same, so is everything else.
        assert pl.read_parquet(part).equals(pl.read_parquet(again.parent / part.name))


def test_second_erasure_finds_nothing(tmp_path: Path) -> None:
    workspace, files = tmp_path / "workspace", tmp_path / "files"
    fill(workspace, files, is_pseudonymized=True)
    _, first = erase(workspace, [ERIN])
    before = contents(workspace)
    _, second = erase(workspace, [ERIN])
    assert first["rows"]
    assert (second["rows"], second["files"], second["left"]) == ({}, {}, [])
    assert contents(workspace) == before


def test_receipt_names_what_was_trained_on_the_user(
    released_workspace: Path, shop_files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(released_workspace, workspace)
    release = json.loads((workspace / "current").read_text())["release"]
    user = pl.read_parquet(shop_files[0])["user_id"][0]
    _, stranger = erase(workspace, ["nobody-we-know"])
    assert (stranger["releases"], stranger["rows"]) == ([], {})
    _, receipt = erase(workspace, [user])
    assert receipt["rows"]["events"] > 0
    assert receipt["releases"] == [release]
    assert len(receipt["models"]) == 1
    # Nor do model, index, report and release hold a byte of the user, however it is stored.
    stored = pseudonym(user, load_or_create_key(workspace / KEY_FILE))
    assert traces(workspace, [user, stored]) == set()
    # Serving and batch lists go on with what is left.
    read_artifact(workspace / "releases" / release, verify=True)
    counts = recommend(workspace, k=3, output=tmp_path / "lists.parquet")
    assert counts["users"] == 299


def test_log_of_one_user_becomes_empty(tmp_path: Path) -> None:
    workspace, files = tmp_path / "workspace", tmp_path / "files"
    write_log(files)
    lines = (files / "events.jsonl").read_text().splitlines(keepends=True)
    (files / "events.jsonl").write_text("".join(line for line in lines[:-1] if ERIN in line))
    run_prepare(workspace, files, is_pseudonymized=True)
    _, receipt = erase(workspace, [ERIN])
    assert receipt["left"] == []
    [log] = (workspace / "events").glob(f"[!.]*/{MANIFEST}")
    assert read_artifact(log.parent, verify=True).counts["kept"] == 0


def test_export_holds_what_erasure_takes_away(tmp_path: Path) -> None:
    workspace, files = tmp_path / "workspace", tmp_path / "files"
    fill(workspace, files, is_pseudonymized=True)
    counts = export_user(workspace, ERIN, output=tmp_path / "erin.json")
    found = json.loads((tmp_path / "erin.json").read_text())
    assert counts == {
        "events": 42,
        "quarantined": 1,  # of an unknown item; whose the broken line is nobody knows
        "attributes": 1,
        "logged_events": 2,
        "impressions": 1,
        "history": 42,
    }
    assert found["user_id"] == ERIN
    assert found["attributes"][0]["age"] == 0
    assert QUERY in {event["query"] for event in found["events"]}
    erase(workspace, [ERIN])
    with pytest.raises(ArtifactError, match="found none"):
        export_user(workspace, ERIN, output=tmp_path / "nothing.json")
    assert not (tmp_path / "nothing.json").exists()


def test_damaged_tombstones_are_not_ignored(tmp_path: Path) -> None:
    workspace, files = tmp_path / "workspace", tmp_path / "files"
    fill(workspace, files, is_pseudonymized=True)
    erase(workspace, [ERIN])
    (workspace / "erasures" / "tombstones.json").write_text("{")
    with pytest.raises(ArtifactError, match="restore it from a backup"):
        run_prepare(workspace, files, is_pseudonymized=True)
    with pytest.raises(ConfigError, match="--user-id"):
        erase(workspace, [""])
