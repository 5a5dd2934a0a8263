"""Text as Postgres can store it."""

import json

import orjson
import pytest

from infra.text import dump_json, dump_line, storable


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("plain", "plain"),
        ("a\x00b", "a\ufffdb"),
        ("\ud800", "?"),
        ("grün 😀", "grün 😀"),
        ({"a\x00": ["\x00", {"b": "\udfff"}]}, {"a\ufffd": ["\ufffd", {"b": "?"}]}),
        (10**18, 10**18),
        (2**64, float(2**64)),
        (-(10**400), None),
        (float("nan"), None),
        ([True, None, 0.5], [True, None, 0.5]),
    ],
)
def test_values(value: object, stored: object) -> None:
    assert storable(value) == stored
    assert orjson.loads(dump_line({"x": value})) == {"x": stored}
    assert json.loads(dump_json(value)) == stored


def test_a_backslash_that_looks_like_a_nul_stays() -> None:
    row = {"x": "a \\u0000 in a program"}
    assert orjson.loads(dump_line(row)) == row


def test_what_json_does_not_know_is_kept_as_text() -> None:
    assert orjson.loads(dump_line({"x": {1, 2}.__class__, "y": 2**70})).keys() == {"x", "y"}
