"""Bodies of JSON: counted before they are parsed, parsed once, and apart from the event loop when large.

What is done with a body takes time for each of its values, and while the event loop is busy with it
every other request waits.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

import orjson
from fastapi import Request

from serving.http.problems import Problem
from serving.json_values import few_values

# Objects, lists, and what is in them. Two thousand messages with tool calls have 30,000.
MAX_VALUES: Final = 100_000
# Beyond this a body is worked on in a thread. A switch of threads takes longer than a smaller one.
LARGE_BYTES: Final = 32 * 1024
# Few: they take turns with the event loop, which holds one request up no longer than its own work.
_THREADS: Final = ThreadPoolExecutor(2, thread_name_prefix="body")
P = ParamSpec("P")
T = TypeVar("T")


class BodyRequest(Request):
    """A request whose JSON is read here, and not by Starlette."""

    async def json(self) -> Any:
        """Raises Problem where it has too many values, JSONDecodeError, UnicodeDecodeError."""
        if not hasattr(self, "_json"):
            self._json = await apart(self, parse, await self.body())
        return self._json


async def apart(request: Request, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function makes of a request's body: in a thread where the body is large."""
    if len(await request.body()) <= LARGE_BYTES:
        return function(*args, **kwargs)
    call = partial(function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


def parse(raw: bytes) -> Any:
    """JSON in UTF-8, also with halves of surrogate pairs, as JavaScript writes them.

    Raises Problem where it has too many values, JSONDecodeError, UnicodeDecodeError.
    """
    check_size(raw)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(raw.decode("utf-8-sig"), parse_constant=partial(_refuse, error))
        except RecursionError:
            raise error from None


def _refuse(error: Exception, _: str) -> None:
    """NaN and Infinity are no JSON."""
    raise error


def check_size(raw: bytes) -> None:
    """Raises Problem where JSON has more values than any request needs."""
    if not few_values(raw, MAX_VALUES):
        message = f"the body has over {MAX_VALUES} values: fields, list items, objects and lists"
        raise Problem(422, message, code="too_many_values")
