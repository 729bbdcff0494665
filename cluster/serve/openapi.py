"""The contract's own description: problem documents and keys as they are, on every route."""

from typing import Any

from fastapi import FastAPI

from cluster.serve.border import OPEN_PATHS
from cluster.serve.problems import MEDIA_TYPE
from cluster.serve.schemas import Problem

PROBLEMS = (401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503, 504)
"""Statuses that any route may answer with; each is a problem document."""
_FIRST_ERROR = 400


def describe(api: FastAPI) -> None:
    """Let an application describe its errors as ``application/problem+json``, and its keys."""
    make = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            document = make()
            components = document.setdefault("components", {})
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _describe_operation(operation, is_open=path in OPEN_PATHS)
            api.openapi_schema = document
        return api.openapi_schema

    # FastAPI's documented way to change what /openapi.json says.
    api.openapi = openapi  # type: ignore[method-assign]


def responses() -> dict[int | str, dict[str, Any]]:
    """Return what every route may answer beside its own."""
    return {status: {"model": Problem} for status in PROBLEMS}


def _describe_operation(operation: dict[str, Any], *, is_open: bool) -> None:
    operation["security"] = [] if is_open else [{"bearer": []}, {"key": []}]
    for status, response in operation["responses"].items():
        if status.isdecimal() and int(status) >= _FIRST_ERROR:
            content = response.get("content", {})
            content[MEDIA_TYPE] = content.pop("application/json", {})
