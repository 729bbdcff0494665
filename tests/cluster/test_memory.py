import pytest

from cluster import memory
from cluster.memory import MemoryMeter


@pytest.mark.parametrize(("then", "cost"), [(0.0, 0.0), (15.5, 1.5)])
def test_process_that_ends_takes_nothing_of_the_others_away(
    then: float, cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had used 14 s before the block; gone, or its number another's, it reads as 0."""
    seconds = iter([14.0])
    monkeypatch.setattr(memory, "_tree", lambda root: [root])
    monkeypatch.setattr(memory, "_cpu_s", lambda _: next(seconds, then))
    with MemoryMeter() as meter:
        pass
    assert meter.read()["cpu_s"] == cost
