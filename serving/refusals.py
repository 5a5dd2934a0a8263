"""Why a request is not let in."""

from __future__ import annotations


class Refused(Exception):
    """A request is not let in.

    status: HTTP.
    retry_after: seconds, where waiting helps.
    code: for programs, where OpenAI has one.
    """

    def __init__(
        self, status: int, message: str, retry_after: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after, self.code = status, retry_after, code
