"""Batch lists: whose they are, and what is refused before any is made."""

import json
import logging
import shutil
from pathlib import Path

import polars as pl
import pytest

from rec.artifacts import file_sha256, write_json
from rec.errors import ArtifactError, ConfigError, DataError
from rec.ranking.current import current_release
from rec.ranking.release import RELEASE_FILE
from rec.stages.recommending import recommend


def test_whole_floats_of_a_users_file_are_the_ids_they_stand_for(
    released_workspace: Path, tmp_path: Path
) -> None:
    """A column with a gap comes as floats: user 7 must not become user 7.0."""
    users, output = tmp_path / "users.parquet", tmp_path / "lists.parquet"
    pl.DataFrame({"user_id": [7.0, None, 8.0]}).write_parquet(users)
    counts = recommend(released_workspace, k=3, output=output, users=str(users))
    assert counts == {"users": 2, "rows": 6, "cold_users": 2}
    assert pl.read_parquet(output)["user_id"].to_list() == ["7"] * 3 + ["8"] * 3


def test_users_file_without_ids_is_refused_with_its_columns(
    released_workspace: Path, tmp_path: Path
) -> None:
    users, output = tmp_path / "users.csv", tmp_path / "lists.parquet"
    users.write_text("customer,age\n7,30\n")
    with pytest.raises(DataError, match=r"expected a column 'user_id', found customer, age: "):
        recommend(released_workspace, k=3, output=output, users=str(users))
    assert not output.exists()


def test_output_of_another_kind_is_refused(released_workspace: Path, tmp_path: Path) -> None:
    output = tmp_path / "lists.csv"
    with pytest.raises(ConfigError, match=r"--output must end with \.parquet, got .*lists\.csv"):
        recommend(released_workspace, k=3, output=output)
    assert not output.exists()


def test_batch_says_how_many_lists_are_short_and_why(
    released_workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace, output = tmp_path / "workspace", tmp_path / "lists.parquet"
    shutil.copytree(released_workspace, workspace)
    folder = current_release(workspace)
    num_items = pl.read_parquet(folder / "items.parquet").height
    users = tmp_path / "users.csv"
    users.write_text("user_id\nsomebody\nnobody\n")
    assert "short_lists" not in recommend(workspace, k=3, output=output, users=str(users))
    with caplog.at_level(logging.WARNING):
        counts = recommend(workspace, k=num_items + 5, output=output, users=str(users))
    assert counts == {
        "users": 2, "rows": 2 * num_items, "cold_users": 2, "short_lists": 2, "fewer_items": 2,
    }  # fmt: skip
    assert f"2 lists have fewer than --k {num_items + 5} items: fewer_items 2" in caplog.text
    settings = json.loads((folder / RELEASE_FILE).read_text())
    settings["ranking"] |= {"category_cap": 1}
    write_json(folder / RELEASE_FILE, settings)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][RELEASE_FILE]["sha256"] = file_sha256(folder / RELEASE_FILE)
    write_json(folder / "manifest.json", manifest)
    counts = recommend(workspace, k=num_items, output=output, users=str(users))
    assert counts["short_lists"] == counts["category_cap"] == 2
    assert pl.read_parquet(output).height == counts["rows"] < 2 * num_items


def test_release_that_does_not_name_its_embeddings_is_refused(
    released_workspace: Path, tmp_path: Path
) -> None:
    workspace, output = tmp_path / "workspace", tmp_path / "lists.parquet"
    shutil.copytree(released_workspace, workspace)
    manifest = current_release(workspace) / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["parents"]["embeddings"]
    write_json(manifest, content)
    with pytest.raises(ArtifactError, match=r"expected a parent of kind 'embeddings' in its mani"):
        recommend(workspace, k=3, output=output)
    assert not output.exists()
