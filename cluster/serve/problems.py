"""Errors as RFC 9457 problem documents: a request id in each, a traceback in none."""

import logging
import uuid
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rec.errors import RecError

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "X-Request-Id"
_log = logging.getLogger(__name__)


def problem(
    status: int, detail: str, *, request_id: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return a problem document."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    return JSONResponse(
        body,
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


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    parts = [
        f"{'.'.join(str(place) for place in item['loc'])}: {item['msg']}"
        for item in error.errors()[:5]
    ]
    return problem(422, "; ".join(parts)[:1000], request_id=request_id_of(request))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(
        error.status_code,
        str(error.detail),
        request_id=request_id_of(request),
        headers=dict(error.headers or {}),
    )


async def _rec(request: Request, error: Exception) -> JSONResponse:
    return problem(422, str(error), request_id=request_id_of(request))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    request_id = request_id_of(request)
    _log.error("request %s failed", request_id, exc_info=error)
    detail = "an unexpected error; the server's log has it under this request_id"
    return problem(500, detail, request_id=request_id)
