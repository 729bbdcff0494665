"""Five thousand generated requests, good and bad: no server error, and what the schema promises.

Run by ``make drills``; prints how many got which status.
"""

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.figures import show
from tests.cluster.graph import running_graph
from tests.cluster.serve.test_contract import check_operation, operations
from tests.releases import make_release

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_CASES = 5_000
MOST_OF_ONE = 450
"""Of one operation; those without a body have fewer that differ."""


def test_five_thousand_generated_requests_meet_no_server_error(tmp_path: Path) -> None:
    statuses: Counter[int] = Counter()
    num_undocumented = 0
    with running_graph(tmp_path, make_release(tmp_path)) as graph:
        document = graph.good("GET", "/openapi.json")
        for method, path in operations():
            found = check_operation(graph, method, path, num_cases=MOST_OF_ONE)
            documented = document["paths"][path][method.lower()]["responses"]
            num_undocumented += sum(
                number for status, number in found.items() if str(status) not in documented
            )
            statuses += found
    show(
        "generated requests",
        cases=statuses.total(),
        operations=len(operations()),
        server_errors=sum(number for status, number in statuses.items() if status >= 500),
        undocumented_statuses=num_undocumented,
        statuses={str(status): number for status, number in sorted(statuses.items())},
    )
    assert statuses.total() >= NUM_CASES
    assert max(statuses) < 500
    assert num_undocumented == 0
