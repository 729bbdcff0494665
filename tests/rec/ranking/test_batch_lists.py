"""Batch lists: whose they are, and what is refused before any is made."""

from pathlib import Path

import polars as pl
import pytest

from rec.errors import ConfigError, DataError
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
