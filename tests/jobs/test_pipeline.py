import json
from pathlib import Path

import polars as pl
import pytest

from jobs import evaluate, index, pipeline, recommend
from jobs.shell import BAD_INPUT

pytestmark = pytest.mark.ray


def arguments(files: tuple[Path, Path, Path], workspace: Path) -> list[str]:
    events, items, users = (str(path) for path in files)
    return [
        "smoke",
        *("--events", events, "--items", items, "--users", users),
        *("--workspace", str(workspace), "--training.num-epochs", "1", "--json"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_pipeline_releases_then_skips_and_recommends_to_asked_users(
    shop_files: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workspace = tmp_path / "workspace"
    pipeline.main(arguments(shop_files, workspace))
    first = json.loads(capsys.readouterr().out)
    names = [stage["job"] for stage in first["stages"]]
    assert names == ["prepare", "embed", "train", "index", "evaluate", "promote"]
    prepared = first["stages"][0]
    bad = sum(prepared["quarantined"].values())
    assert prepared["rows_in"] == prepared["kept"] + prepared["duplicates"] + bad
    for stage in first["stages"]:
        assert stage["peak_memory_bytes"] > 0
        assert stage["wall_s"] >= 0
        assert not stage["skipped"]
    pipeline.main(arguments(shop_files, workspace))
    second = json.loads(capsys.readouterr().out)
    assert second["skipped"]
    assert all(stage["skipped"] for stage in second["stages"])

    asked = tmp_path / "users.csv"
    known = pl.read_parquet(shop_files[0])["user_id"][0]
    asked.write_text(f"user_id\n{known}\nsomebody-new\n")
    output = tmp_path / "lists.parquet"
    recommend.main(
        [
            "smoke",
            *("--workspace", str(workspace), "--users", str(asked), "--output", str(output)),
            *("--k", "7", "--json"),
        ]
    )
    lists = pl.read_parquet(output)
    assert lists.columns == ["user_id", "position", "item_id", "score"]
    assert lists["user_id"].to_list() == [known] * 7 + ["somebody-new"] * 7
    assert lists["position"].to_list() == [*range(1, 8)] * 2
    seen = pl.read_parquet(shop_files[0]).filter(pl.col("user_id") == known)["item_id"].to_list()
    assert not set(lists.filter(pl.col("user_id") == known)["item_id"]) & set(seen)


@pytest.mark.parametrize("job", [index, evaluate])
def test_job_without_its_input_says_which_job_is_missing(
    job: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        job.main(["smoke", "--workspace", str(tmp_path)])  # type: ignore[attr-defined]
    assert stop.value.code == BAD_INPUT
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert "python -m jobs." in shown.replace("\n", " ")


def test_workspace_uri_is_refused_and_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        index.main(["smoke", "--workspace", "s3://shop/workspace"])
    assert stop.value.code == BAD_INPUT
    assert "expects a local or shared folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
