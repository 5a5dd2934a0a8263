"""Answers to paths and methods that no route has, in the interface's own form of errors."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import HTTPException, Request, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from serving.http import paths

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class UnknownPath(Route):
    """Every path but those that BentoML itself answers after ours.

    known: the routes to name in the error.
    """

    def __init__(self, known: Sequence[Route]) -> None:
        self.known = known
        super().__init__("/{path:path}", self.refuse, methods=METHODS, include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if any(path == own or path.startswith(f"{own}/") for own in paths.BENTOML):
            return Match.NONE, {}
        return super().matches(scope)

    async def refuse(self, request: Request) -> Response:
        """Raises HTTPException: 405 where another method would do, else 404."""
        for route in self.known:
            if route.matches(request.scope)[0] is Match.PARTIAL:
                allowed = ", ".join(sorted(route.methods or ()))
                message = f"{request.method} is not allowed here; use {allowed}"
                raise HTTPException(405, message, {"allow": allowed})
        paths_known = {route.path for route in self.known}
        plain = {path for path in paths_known if "{" not in path and len(path) > 1}
        raise HTTPException(404, paths.missing(request.url.path, plain))
