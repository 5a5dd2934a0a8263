"""What goes wrong with one candidate, as an error whose message holds none of its secrets."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import zlib
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from models.catalog import Upstream
from serving.gateway.errors import (
    OutOfResources,
    RateLimited,
    ServerError,
    Unreadable,
    UpstreamError,
    UpstreamRefused,
    class_of,
    retry_after,
)
from serving.gateway.redaction import Redactor
from serving.gateway.upstream_errors import ErrorWords, read_error_body

MAX_ERROR_BYTES: Final = 64 * 2**10
ERROR_BODY_SECONDS: Final = 5.0
SECRET_NAMES: Final = re.compile(
    r"auth|key|token|secret|passw|cookie|credential|sig", re.IGNORECASE
)
# What reading a response may raise that is the upstream's doing.
READ_ERRORS: Final = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError, zlib.error)
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
# A base_url without a path leads here.
BARE_PATH: Final = "/chat/completions"


class Failures:
    """Makes a candidate's errors.

    url: where its completions are asked for.
    proxy: the proxy before it.
    """

    def __init__(self, name: str, spec: Upstream, url: URL, proxy: URL | None) -> None:
        self.name = name
        self._spec, self._url, self._proxy = spec, url, proxy
        self._redactor: tuple[tuple[str, ...], Redactor] | None = None

    @property
    def redactor(self) -> Redactor:
        """Knows every secret that is sent to the upstream, or to the proxy before it."""
        spec = self._spec
        secrets = [os.environ.get(spec.key_variable, "").strip() if spec.key_variable else ""]
        secrets += [value for name, value in spec.headers.items() if SECRET_NAMES.search(name)]
        secrets += [value for name, value in self._url.query.items() if SECRET_NAMES.search(name)]
        secrets += [self._proxy.password] if self._proxy and self._proxy.password else []
        words = tuple(word for secret in secrets for word in {secret, *secret.split()})
        if self._redactor is None or self._redactor[0] != words:
            self._redactor = words, Redactor(words)
        return self._redactor[1]

    def error(
        self,
        kind: type[UpstreamError],
        message: str,
        status: int | None = None,
        words: ErrorWords | None = None,
    ) -> UpstreamError:
        """An error of this candidate, its message cleaned of secrets."""
        return kind(f"{self.name}{self.redactor.clean(message)}", status, words)

    def unreadable(self, message: str) -> UpstreamError:
        return self.error(Unreadable, f": {message}")

    def in_answer(self, words: ErrorWords) -> UpstreamError:
        """An error that came where an answer should."""
        kind = class_of(words.status or 500, words)
        status = words.status if words.status is not None and words.status < 500 else None
        message = f": {words.message or words.code or words.type or 'an error without words'}"
        return self.error(kind, message, status, words)

    def of_client(self, error: BaseException, kind: type[UpstreamError]) -> UpstreamError:
        """What an exception of the HTTP client means."""
        inner: BaseException | None = error
        while inner is not None:
            if isinstance(inner, OSError) and inner.errno in EXHAUSTED:
                return self.error(
                    OutOfResources,
                    f" was not asked: this service is out of resources ({inner.strerror})",
                )
            inner = inner.__cause__ or getattr(inner, "os_error", None)
        return self.error(kind, f": {describe(error)}")

    async def of_response(self, response: aiohttp.ClientResponse) -> UpstreamError:
        """What a response that is no answer means."""
        status = response.status
        if 300 <= status < 400:
            message = " redirects; nobody follows it: give base_url the address it leads to"
            return self.error(UpstreamRefused, f" answered {status}:{message}", status)
        raw = await read_error_bytes(response)
        words = read_error_body(raw, self.redactor)
        message = f" answered {status}" + (f": {words.message}" if words.message else "")
        if status in (404, 405) and self._url.path == BARE_PATH:
            message += " (its base_url has no path; most servers answer under /v1)"
        error = self.error(class_of(status, words), message, status, words)
        if isinstance(error, RateLimited | ServerError):
            error.retry_after = retry_after(response.headers)
        return error


async def read_error_bytes(response: aiohttp.ClientResponse) -> bytes:
    """What an error says, as far as it comes soon and is readable."""
    raw = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            async for part in response.content.iter_any():
                raw += part
                if len(raw) > MAX_ERROR_BYTES:
                    break
    except READ_ERRORS:  # the status says enough
        pass
    return bytes(raw[:MAX_ERROR_BYTES])


def describe(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
