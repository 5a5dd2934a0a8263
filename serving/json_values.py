"""How many values JSON has, told without parsing it: what each costs is to be refused before."""

from __future__ import annotations


def few_values(raw: bytes, most: int) -> bool:
    """Whether JSON has at most so many values, names included; by its punctuation, without parsing.

    Exact enough: what is no JSON is counted only up to where a parser stops anyway.
    """
    text = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') > 4 * most:  # a name and a value each have two
        return False
    outside = b"".join(text.split(b'"')[::2])
    return sum(outside.count(mark) for mark in (b",", b"[", b"{")) <= most
