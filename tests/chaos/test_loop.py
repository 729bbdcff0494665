"""The loop on a synthetic shop: weeks of feedback make the next release better on the newest day.

Run by ``make drills``; prints both NDCGs.
"""

import json
from pathlib import Path

import polars as pl
import pytest

from jobs import loop, pipeline
from rec.data.events import Event
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.ranking.current import current_release
from rec.ranking.feedback.event_log import LOG_FILE, EventLog

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

OLD_SHARE = 0.05
"""Of the log that the first release knows; the rest arrives as feedback. A fifth is already enough
to learn this shop to its ceiling, where one release is as good as the other."""


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "how", [(), ("--incremental", "--newest-hours", "96")], ids=["anew", "incremental"]
)
def test_feedback_makes_a_better_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: tuple[str, ...]
) -> None:
    shop = make_shop(ShopConfig(num_users=2500, num_items=240, events_per_user=30))
    events, items, _ = write_shop(shop, tmp_path / "shop")
    log = pl.read_parquet(events)
    cut = log["timestamp"].quantile(OLD_SHARE, interpolation="lower")
    old = tmp_path / "old.parquet"
    log.filter(pl.col("timestamp") < cut).write_parquet(old)
    workspace = tmp_path / "workspace"
    common = [
        *("smoke", "--events", str(old), "--items", str(items), "--workspace", str(workspace)),
        *("--training.num-epochs", "6", "--cleaning.no-pseudonymize-users", "--json"),
    ]
    pipeline.main(common)
    first = current_release(workspace).name
    capsys.readouterr()
    later = log.filter(pl.col("timestamp") >= cut).sort("timestamp")
    feedback = EventLog(workspace / LOG_FILE)
    feedback.append(
        [
            Event(
                user_id=row["user_id"],
                item_id=row["item_id"],
                event_type=row["event_type"],
                query=row["query"],
                timestamp_ms=row["timestamp"],
            )
            for row in later.iter_rows(named=True)
        ]
    )
    feedback.close()
    loop.main([*common, *how])
    summary = json.loads(capsys.readouterr().out)
    comparison = summary["comparison"]
    with capsys.disabled():
        train_cpu_s = next(s["cpu_s"] for s in summary["stages"] if s["job"] == "train")
        shown = {"how": how, "decision": summary["decision"], "train_cpu_s": train_cpu_s}
        print(json.dumps({**shown, **comparison}))  # noqa: T201
    assert summary["decision"] == "promoted"
    assert comparison["candidate"]["ndcg@10"] > comparison["release"]["ndcg@10"]
    assert comparison["low"] > 0
    assert current_release(workspace).name != first
    loop.main([*common, *how])
    again = json.loads(capsys.readouterr().out)
    assert (again["decision"], again["comparison"]["reason"]) == ("kept", "nothing has changed")
