"""``ray up`` and ``ray down`` over SSH, on three hosts of our own making."""

import pytest

from tests.chaos import launched
from tests.chaos.hosts import why_not

REASON = why_not() or launched.why_not()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(REASON), reason=REASON or "never"),
]


def test_ray_up_and_down_on_hosts_of_ones_own() -> None:
    with launched.site() as where:
        figure = launched.up_and_down(where)
    print(f"\nray up: three hosts in {figure.recovery_s:.0f} s")  # noqa: T201
    assert figure.is_good()
