"""Perturbations: the same question, written otherwise. A router should not care.

Each returns the query itself where it has nothing to change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import numpy as np

TYPO_SHARE: Final = 0.05
OPTION: Final = re.compile(r"^(\(?[A-Z][.)]\)?\s+)(.*)$")


def case(query: str, rng: np.random.Generator) -> str:
    """All in lower case."""
    return query.lower()


def whitespace(query: str, rng: np.random.Generator) -> str:
    """Some spaces doubled, the ends padded; lines stay lines."""
    words = query.split(" ")
    wide = ["  " if rng.random() < 0.2 else " " for _ in words]
    joined = "".join(word + space for word, space in zip(words, wide, strict=True))
    return f" {joined.rstrip(' ')} \n"


def typos(query: str, rng: np.random.Generator) -> str:
    """In a few of the longer words, two letters change places."""

    def slip(found: re.Match[str]) -> str:
        word = found.group()
        if rng.random() >= TYPO_SHARE:
            return word
        i = int(rng.integers(1, len(word) - 2))
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]

    return re.sub(r"[A-Za-z]{4,}", slip, query)


def reordered_options(query: str, rng: np.random.Generator) -> str:
    """The options of a multiple-choice question in another order, under the same letters."""
    lines = query.split("\n")
    found = [(i, m) for i, line in enumerate(lines) if (m := OPTION.match(line))]
    if len(found) < 2:
        return query
    order = rng.permutation(len(found))
    for (i, match), place in zip(found, order.tolist(), strict=True):
        lines[i] = match.group(1) + found[place][1].group(2)
    return "\n".join(lines)


PERTURBATIONS: Final[dict[str, Callable[[str, np.random.Generator], str]]] = {
    "case": case,
    "whitespace": whitespace,
    "typos": typos,
    "reordered options": reordered_options,
}
