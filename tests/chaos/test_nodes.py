"""One try of each drill on several hosts; ``python -m tests.chaos.reliability`` repeats them."""

from collections.abc import Iterator

import pytest

from tests.chaos import nodes, service
from tests.chaos.hosts import why_not

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"),
]
MAX_REDONE = 0.1


@pytest.fixture(scope="module")
def where() -> Iterator[nodes.Site]:
    with nodes.site() as made:
        yield made


@pytest.fixture(scope="module")
def served() -> Iterator[service.Site]:
    with service.site() as made:
        yield made


@pytest.mark.parametrize("drill", sorted(nodes.DRILLS))
def test_lost_node_changes_no_result(where: nodes.Site, drill: str) -> None:
    where.ready()
    figure = nodes.DRILLS[drill](where)
    print(f"\n{drill}: {figure}")  # noqa: T201
    assert figure.failures == figure.duplicates == figure.lost == 0
    assert figure.redone_share <= MAX_REDONE


@pytest.mark.parametrize("drill", sorted(service.DRILLS))
def test_lost_node_loses_no_request(served: service.Site, drill: str) -> None:
    served.ready()
    figure = service.DRILLS[drill](served)
    print(f"\nserving, {drill}: {figure}")  # noqa: T201
    assert figure.failures == figure.duplicates == figure.lost == 0
