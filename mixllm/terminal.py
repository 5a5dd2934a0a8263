"""The terminal: names, comments and messages of others are shown as they are and do nothing."""

from __future__ import annotations

import re
import sys
from typing import Any, Final, TextIO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

# What a terminal acts upon, and what makes text look like another: control characters, and marks of
# the direction of writing. The rest of an escape sequence is plain text without its first character.
INERT: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)


def inert(text: str) -> str:
    """The text without what a terminal would act upon; line breaks and tabs stay."""
    return INERT.sub("", text)


class _Inert:
    """Something printable, its text inert; the styles come from us."""

    def __init__(self, printable: ConsoleRenderable) -> None:
        self.printable = printable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.printable, options):
            yield segment if segment.control else Segment(inert(segment.text), segment.style)


class _Hook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Inert(printable) for printable in renderables]


def open_console(**options: Any) -> Console:
    """What every command prints to: no markup, no emoji codes, no escape sequences in any text.

    options: of rich's ``Console``.
    """
    console = Console(markup=False, emoji=False, **options)
    console.push_render_hook(_Hook())
    return console


def print_plain(text: str, file: TextIO) -> None:
    """Print text as it stands, to be copied or read by programs, but inert."""
    print(inert(text), file=file)


def tolerate_odd_text() -> None:
    """Characters that the terminal's encoding lacks are shown as escapes, not as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
