from pathlib import Path

import pytest

from cluster.capacity import cores_for, page, wait_probability

PAGE = Path(__file__).parents[2] / "cluster" / "deploy" / "CAPACITY.md"


def test_page_is_what_the_model_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_one_core_waits_as_often_as_it_is_busy() -> None:
    """M/M/1: a request finds the core busy with probability rho."""
    for load in (0.1, 0.5, 0.9):
        assert wait_probability(load, 1) == pytest.approx(load)


def test_more_requests_need_more_cores_and_share_them_better() -> None:
    cores = [cores_for(rate, 0.01) for rate in (10, 100, 1000, 10_000)]
    assert cores == sorted(set(cores))
    spare = [
        count / (rate * 0.01) for count, rate in zip(cores, (10, 100, 1000, 10_000), strict=True)
    ]
    assert spare == sorted(spare, reverse=True)
    assert spare[-1] < 1.1
