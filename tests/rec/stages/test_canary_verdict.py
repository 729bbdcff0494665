"""A canary's verdict: the better arm is found, chance is not, and a broken split says nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from jobs import canary as job
from rec.artifacts import write_json
from rec.data.events import Event, Impression
from rec.errors import ArtifactError, ConfigError
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.stages.canary_verdict import judge_canary

OLD, NEW, SHARE = "0" * 16, "1" * 16, 0.25


def make_trial(
    workspace: Path,
    *,
    num_users: int = 2_000,
    chances: tuple[float, float] = (0.2, 0.2),
    loses_half: bool = False,
) -> None:
    """Log a trial: each user gets two lists, each followed with the chance of the user's arm.

    ``loses_half``: of the canary's users every other one's lists are not logged.
    """
    pointer = {"release": OLD, "canary": {"release": NEW, "share": SHARE, "key": "00ff"}}
    write_json(workspace / "current", pointer)
    random = np.random.default_rng(4)
    log = EventLog(workspace / LOG_FILE)
    shown, events = [], []
    for user in range(num_users):
        is_new = bool(random.random() < SHARE)
        follows = random.random(2) < chances[is_new]
        if loses_half and is_new and user % 2 == 0:
            continue
        for turn in range(2):
            name = f"{user}-{turn}"
            shown.append(
                Impression(
                    impression_id=name, request_id=name, user_id=f"u{user}",
                    timestamp_ms=1_000, item_ids=("a", "b"), positions=(1, 2),
                    propensities=(1.0, 1.0), scores=(1.0, 0.5), release=NEW if is_new else OLD,
                )
            )  # fmt: skip
            if follows[turn]:
                events.append(
                    Event(
                        user_id=f"u{user}", event_type="view", timestamp_ms=2_000 + user,
                        item_id="b", impression_id=name, event_id=name,
                    )
                )  # fmt: skip
    # Shown before the trial, to the same users: it is no part of it. Nor is who has no name.
    early = [
        Impression(
            impression_id=f"early-{n}", request_id="r", user_id=None if n % 2 else f"u{n}",
            timestamp_ms=5_000 if n % 2 else 1, item_ids=("a",), positions=(1,),
            propensities=(1.0,), scores=(1.0,), release=OLD,
        )
        for n in range(500)
    ]  # fmt: skip
    log.append_impressions([*early, *shown])
    log.append(events)
    log.close()


def test_better_arm_is_named_and_chance_is_not(tmp_path: Path) -> None:
    make_trial(tmp_path / "better", chances=(0.2, 0.35))
    found = judge_canary(tmp_path / "better", expected_users=2_000)
    assert (found.verdict, found.ratio.is_sound) == ("canary", True)
    assert found.look.low < 0.15 < found.look.high
    assert found.canary.num_users + found.promoted.num_users == 2_000
    assert found.canary.num_lists == 2 * found.canary.num_users
    assert found.canary.followed == pytest.approx(0.35, abs=0.03)
    make_trial(tmp_path / "worse", chances=(0.35, 0.2))
    assert judge_canary(tmp_path / "worse", expected_users=2_000).verdict == "promoted"
    make_trial(tmp_path / "equal")
    equal = judge_canary(tmp_path / "equal", expected_users=2_000)
    assert equal.verdict is None
    assert equal.look.low < 0 < equal.look.high


def test_split_that_lost_users_says_nothing_whatever_the_arms_earn(tmp_path: Path) -> None:
    make_trial(tmp_path, chances=(0.2, 0.5), loses_half=True)
    found = judge_canary(tmp_path, expected_users=2_000)
    assert found.verdict == "split_is_broken"
    assert found.look.is_decided


def test_too_few_users_are_no_verdict_and_json_holds_no_infinity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trial(tmp_path, num_users=60, chances=(0.0, 1.0))
    job.main(["smoke", "--workspace", str(tmp_path), "--json"])
    shown = capsys.readouterr()
    summary = json.loads(shown.out, parse_constant=pytest.fail)
    assert summary["canary"]["verdict"] is None
    assert summary["canary"]["look"]["low"] is None
    assert summary["canary"]["canary"]["followed"] == 1.0
    assert "no clear difference yet" in shown.err


def test_no_trial_is_no_verdict(tmp_path: Path) -> None:
    write_json(tmp_path / "current", {"release": OLD})
    with pytest.raises(ArtifactError, match=r"none is out: send one by jobs\.promote --canary"):
        judge_canary(tmp_path)
    write_json(
        tmp_path / "current",
        {"release": OLD, "canary": {"release": NEW, "share": SHARE, "key": "00ff"}},
    )
    with pytest.raises(ArtifactError, match="none was shown"):
        judge_canary(tmp_path)
    with pytest.raises(ConfigError, match="--expected-users must be >= 1, got 0"):
        judge_canary(tmp_path, expected_users=0)
