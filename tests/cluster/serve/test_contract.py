"""What the contract says of itself holds: generated requests, and every route under every scope."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from cluster.serve.gateway import ROUTERS
from cluster.serve.keys import SCOPES, Scope, add_key
from tests.cluster.graph import Graph, running_graph
from tests.releases import make_release

NUM_CASES = 12
"""Generated requests of one operation; ``make drills`` sends 5,000 in all."""
SCOPE_OF: dict[tuple[str, str], Scope] = {
    ("POST", "/v1/recommend"): "read",
    ("GET", "/v1/users/{user_id}/recommendations"): "read",
    ("POST", "/v1/search"): "read",
    ("POST", "/v1/rerank"): "read",
    ("POST", "/v1/embeddings"): "read",
    ("GET", "/v1/models"): "read",
    ("GET", "/v1/items/{item_id}/similar"): "read",
    ("GET", "/v1/release"): "read",
    ("POST", "/v1/events"): "write",
    ("PUT", "/v1/items/{item_id}"): "write",
    ("DELETE", "/v1/items/{item_id}"): "write",
    ("GET", "/v1/users/{user_id}"): "admin",
    ("GET", "/v1/users/{user_id}/export"): "admin",
    ("GET", "/v1/users/{user_id}/history"): "admin",
    ("DELETE", "/v1/users/{user_id}"): "admin",
    ("GET", "/v1/erasures/{erasure_id}"): "admin",
    ("POST", "/v1/release/promote"): "admin",
    ("POST", "/v1/release/rollback"): "admin",
}
"""The least scope of every route under /v1: a new route must be named here."""
CONFIG = schemathesis.Config.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}}}
)
"""A body may also be wrong by its size (413), and never is one by a server error."""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    workspace: Path = tmp_path_factory.mktemp("contract")
    with running_graph(workspace, make_release(workspace)) as found:
        yield found


def operations() -> list[tuple[str, str]]:
    """Return method and path of every operation, as the routers name them."""
    api = FastAPI()
    for router in ROUTERS:
        api.include_router(router)
    return sorted(
        (method.upper(), path) for path, entry in api.openapi()["paths"].items() for method in entry
    )


def check_operation(graph: Graph, method: str, path: str, *, num_cases: int) -> Counter[int]:
    """Send generated requests, good and bad; return how many got which status."""
    schema = schemathesis.openapi.from_dict(graph.good("GET", "/openapi.json"), config=CONFIG)
    operation = schema[path][method]
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=num_cases,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(
        case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
        | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    )
    def check(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://test")
        answer = graph.ask(
            sent["method"],
            sent["url"],
            params=sent.get("params"),
            headers={**sent.get("headers", {}), "Authorization": f"Bearer {graph.key}"},
            **({"json": sent["json"]} if "json" in sent else {"content": sent.get("data")}),
        )
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (sent, answer.text)
        # What a schema cannot say (a filter that no item has, an item without text) is a 422 too.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance, ignored_auth])
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["request_id"] == answer.headers["x-request-id"]

    check()
    return statuses


@pytest.mark.parametrize(("method", "path"), operations())
def test_generated_requests_get_what_the_schema_promises(
    graph: Graph, method: str, path: str
) -> None:
    assert check_operation(graph, method, path, num_cases=NUM_CASES).total() > 0


def test_every_route_is_for_its_scope_and_no_lesser_one(graph: Graph) -> None:
    found = {one for one in operations() if one[1].startswith("/v1/")}
    assert found == set(SCOPE_OF)
    keys = {
        scope: add_key(graph.workspace, name=f"matrix {scope}", scope=scope) for scope in SCOPES
    }
    for (method, path), needed in SCOPE_OF.items():
        url = path.format(user_id="u", item_id="nothing", erasure_id="0" * 16)
        for key in ("", "nextray_stranger", "null"):
            assert graph.ask(method, url, key=key).status_code == 401, (method, path)
        for scope, key in keys.items():
            answer = graph.ask(method, url, key=key)
            is_allowed = SCOPES.index(scope) >= SCOPES.index(needed)
            assert (answer.status_code != 403) == is_allowed, (method, path, scope)
            assert answer.status_code not in (401, 405), (method, path, scope)
