"""Look-ups in Postgres on behalf of requests: few at a time, and none for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

from serving.refusals import Refused

# As many as the database's connections of a process would serve anyway.
THREADS: Final = 8
SECONDS: Final = 5.0
# A batch of a thousand votes reads a thousand decisions.
BATCH_SECONDS: Final = 30.0
P = ParamSpec("P")
T = TypeVar("T")


class Lookups:
    """Threads of their own, so that a database that hangs takes none from LLM requests."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="look-up")

    async def run(
        self, seconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What a function returns that asks Postgres. Raises Refused when it takes too long."""
        call = partial(function, *args, **kwargs)
        work = asyncio.get_running_loop().run_in_executor(self._pool, call)
        try:
            return await asyncio.wait_for(work, seconds)
        except TimeoutError as error:
            message = f"Postgres did not answer within {seconds:g} s; try this again later"
            raise Refused(503, message, retry_after=5) from error

    def stop(self) -> None:
        """Waits for nobody: what still hangs has been refused already."""
        self._pool.shutdown(wait=False, cancel_futures=True)
