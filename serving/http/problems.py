"""Errors in one form: ``{"error": {"type", "message", "param"}}``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import fastapi
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from models.errors import DecisionError
from serving import metrics
from serving.access.budgets import QUOTA
from serving.http.schemas import ErrorBody, ErrorResponse
from serving.refusals import Refused

log = logging.getLogger("mixllm.serving")

NAMES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "rate_limited",
    431: "too_large",
    500: "internal_error",
    502: "upstream_error",
    503: "unavailable",
    504: "upstream_timeout",
    507: "out_of_space",
}
# What OpenAI's clients look for.
CODES = {401: "invalid_api_key", 403: "insufficient_permissions", 404: "not_found"}


def problem(
    status: int,
    message: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    code: str | None = None,
) -> JSONResponse:
    """An error response in the one form; its type is that of the code or the status."""
    error = ErrorBody(type=error_type(status, code), message=message, param=param, code=code)
    return error_response(status, error, headers)


def error_type(status: int, code: str | None) -> str:
    return QUOTA if code == QUOTA else NAMES.get(status, "error")


def error_response(
    status: int, error: ErrorBody, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    body = ErrorResponse(error=error).model_dump()
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


class Problem(fastapi.HTTPException):
    """A refusal that says which part of the request it is about, and has a code for programs."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(status, message)
        self.param, self.code = param, code


def install(app: FastAPI) -> None:
    """Answer every error of the app in the one form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = error.errors()[0]
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if first["loc"][:1] == ("body",) and kind and not kind.endswith("json"):
            message = f"the body is {kind[:100]}; send JSON, with content-type: application/json"
            return problem(415, message, code="unsupported_media_type")
        if first["type"] == "json_invalid":
            where, why = first["loc"][-1], first.get("ctx", {}).get("error", "")
            return problem(
                422, f"the body is not JSON: {why} at character {where}", code="invalid_json"
            )
        place = [str(part) for part in first["loc"] if part != "body"]
        param = ".".join(place) or None
        message = f"{param}: {first['msg']}" if param else str(first["msg"])
        return problem(422, message, param, code="missing" if first["type"] == "missing" else None)

    @app.exception_handler(HTTPException)
    async def known(_: Request, error: HTTPException) -> JSONResponse:
        param, code = getattr(error, "param", None), getattr(error, "code", None)
        code = code or CODES.get(error.status_code)
        return problem(error.status_code, str(error.detail), param, error.headers, code)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        reason = {401: "key", 403: "scope", 503: "unknown"}.get(error.status, "limit")
        metrics.refused.labels(reason).inc()
        headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        if error.code == QUOTA and error.retry_after is None:
            headers["x-should-retry"] = "false"  # what OpenAI's clients heed
        return problem(error.status, str(error), headers=headers, code=error.code)

    @app.exception_handler(DecisionError)
    async def undecided(_: Request, error: DecisionError) -> JSONResponse:
        param = error.context.get("param")
        code = "context_length_exceeded" if param == "messages" else None
        return problem(422, str(error), param, code=code)

    @app.exception_handler(SQLAlchemyError)
    async def database(_: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("Postgres: %s", error)
        return problem(503, "Postgres does not answer; routing goes on, try this again later")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(500, "something went wrong; the service's log says what")
