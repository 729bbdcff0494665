"""Errors as RFC 9457 problem documents: a request id in each, a traceback in none."""

import json
import logging
import uuid
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from rec.errors import RecError

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "X-Request-Id"
_log = logging.getLogger(__name__)


def problem(
    status: int, detail: str, *, request_id: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a problem document."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    return Response(
        # ASCII: a field's name may hold what UTF-8 has no form for, such as half a surrogate pair.
        json.dumps(body),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={REQUEST_ID: request_id, **(headers or {})},
    )


def new_request_id() -> str:
    """Return an id that no other request has."""
    return uuid.uuid4().hex


def request_id_of(request: Request) -> str:
    """Return the id that the border middleware gave a request."""
    return str(request.scope.get("nextray_request_id") or new_request_id())


def add_problem_handlers(api: FastAPI) -> None:
    """Answer every error of an application with a problem document."""
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(RecError, _rec)
    api.add_exception_handler(Exception, _unexpected)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parts = [
        f"{'.'.join(str(place) for place in item['loc'])}: {item['msg']}"
        for item in error.errors()[:5]
    ]
    return problem(422, "; ".join(parts)[:1000], request_id=request_id_of(request))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # FastAPI calls a body that is no JSON 400 or 422, depending on how it is broken.
    return problem(
        422 if error.status_code == 400 else error.status_code,
        str(error.detail),
        request_id=request_id_of(request),
        headers=dict(error.headers or {}),
    )


async def _rec(request: Request, error: Exception) -> Response:
    return problem(422, str(error), request_id=request_id_of(request))


async def _unexpected(request: Request, error: Exception) -> Response:
    request_id = request_id_of(request)
    _log.error("request %s failed", request_id, exc_info=error)
    detail = "an unexpected error; the server's log has it under this request_id"
    response = problem(500, detail, request_id=request_id)
    if REQUEST_ID in request.headers:
        # This answer goes round the border, and Serve adds the header to every answer.
        del response.headers[REQUEST_ID]
    return response
