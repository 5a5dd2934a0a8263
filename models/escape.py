"""Texts of others (names, queries, error messages) in our pages: shown as they are, doing nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# What begins something within a line of Markdown: code, emphasis, links, images, tables, formulas.
MARKS = re.compile(r"([\\`*_\[\]|~$@])")
# Addresses become links without any mark.
ADDRESS = re.compile(r"://|(?<=www)\.", re.IGNORECASE)


def markdown(text: str) -> str:
    """A text on one line of Markdown, a table's cell included."""
    line = " ".join(text.split())
    line = MARKS.sub(r"\\\1", line)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return ADDRESS.sub(lambda match: "".join(f"\\{mark}" for mark in match[0]), line)


def markdown_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table whose cells of text are shown as Markdown, as Prefect's pages do."""
    return [
        {name: markdown(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
        for row in rows
    ]


def label(text: str) -> str:
    """A text in a plot, where a dollar begins a formula, which may not be one."""
    return text.replace("$", r"\$")


def chat(text: str) -> str:
    """A text for chat services: names in it call nobody and lead nowhere."""
    text = text.replace("<", "‹").replace(">", "›").replace("](", "] (")
    return text.replace("@", "＠")
