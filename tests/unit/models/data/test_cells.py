"""Cells as people and tools write them: converted where unambiguous, else refused with why."""

import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from models.data import cells
from models.data.cells import BadCell
from models.data.tables.raw_table import Nested


@pytest.mark.parametrize(
    ("value", "quality"),
    [
        *((v, 1.0) for v in (1, 1.0, True, np.True_, "1", "1.", "true", "True", "YES", "100%")),
        *((v, 0.0) for v in (0, False, np.False_, np.int8(0), "0", "false", "FALSE", "No", "0 %")),
        *((v, 0.5) for v in (0.5, np.float16(0.5), Decimal("0.50"), " 0.5 ", ".5", "5e-1", "+0.5")),
        *((v, 0.875) for v in ("87.5%", " 87.5 % ", "0.875")),
        ("50 %", 0.5),
        ("1e-1", 0.1),
    ],
)
def test_qualities(value: Any, quality: float) -> None:
    assert cells.quality(value) == quality


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *((v, "is missing") for v in (None, "", "  ")),
        *((v, "write a decimal point") for v in ("0,5", "1,000", "0,5 %", "1.000,5")),
        *(
            (v, "is not a number")
            for v in ("good", "nan", "NaN", "null", "1_0", "0x1", "½", "１", "-", "1/2", "%", "5%%")
        ),
        *((v, "is not a number") for v in (Nested("[1]"), b"1", math.nan, np.float32("nan"))),
        *((v, "is not finite") for v in (math.inf, -math.inf, "1e999")),
        ("inf", "is not a number"),
        (10**400, "is too large"),
    ],
)
def test_what_is_no_quality(value: Any, why: str) -> None:
    with pytest.raises(BadCell, match=why):
        cells.quality(value)


@pytest.mark.parametrize("value", [True, "True", "yes", "50%", "$1", np.True_, "2024-01-01"])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(BadCell):
        cells.number(value)


@pytest.mark.parametrize(
    "value", [None, "", " ", "nan", "NaN", "NA", "n/a", "null", "None", math.nan]
)
def test_what_was_not_measured(value: Any) -> None:
    assert math.isnan(cells.measured(value))


@pytest.mark.parametrize("value", ["-", "free", "1,5", "0.1 USD", True])
def test_what_is_not_a_measurement_is_not_taken_for_missing(value: Any) -> None:
    with pytest.raises(BadCell):
        cells.measured(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(
            (v, "1")
            for v in (1, 1.0, np.int64(1), np.float32(1), Decimal("1.00"), "1", " 1 ", b"1")
        ),
        ("01", "01"),
        ("1.0", "1.0"),
        ("NA", "NA"),
        (-0.0, "0"),
        (2**64, str(2**64)),
    ],
)
def test_ids(value: Any, text: str) -> None:
    assert cells.text(value) == text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *((v, "is missing") for v in (None, math.nan)),
        *((v, "is empty") for v in ("", " \t")),
        (True, "is a truth value"),
        (0.5, "is not a whole number"),
        (math.inf, "is not a whole number"),
        (1e300, "too large to be exact"),
        (Nested("[]"), "is a list or an object"),
        ("a\0b", r"contains the character U\+0000"),
        ("\ud800", "half of a surrogate pair"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_what_is_no_id(value: Any, why: str) -> None:
    with pytest.raises(BadCell, match=why):
        cells.text(value)


USER = {"role": "user", "content": "hi"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url"}]}


@pytest.mark.parametrize(
    "messages",
    [[USER], [PARTS], [{"role": "system", "content": "be brief"}, USER], [{**USER, "name": "Ada"}]],
)
@pytest.mark.parametrize("form", [str, Nested])
@pytest.mark.parametrize("under", ["", "messages"])
def test_chats_are_routed_by_their_text(
    messages: list[dict[str, Any]], form: type[str], under: str
) -> None:
    written = json.dumps({under: messages, "model": "x"} if under else messages)
    assert cells.query(form(written)) == "hi"


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        '{"a": 1}',
        "[{'role': 'user'}]",
        '{"role": "user"}',
        '[{"role": "king"}]',
        "[",
        "hi\n",
    ],
)
def test_other_text_stays_as_written(text: str) -> None:
    assert cells.query(text) == text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Nested('["hi"]'), "is neither text nor chat messages"),
        (Nested('{"text": "hi"}'), "is neither text nor chat messages"),
        (Nested('{"messages": []}'), "is neither text nor chat messages"),
        (Nested(json.dumps([{"role": "user", "content": None}])), "a conversation without text"),
        (True, "is a truth value"),
        (None, "is missing"),
        ("", "is empty"),
    ],
)
def test_what_is_no_query(value: Any, why: str) -> None:
    with pytest.raises(BadCell, match=why):
        cells.query(value)


def test_columns_are_converted_whole_or_cell_by_cell() -> None:
    whole, bad = cells.convert(np.array([1, 0], dtype=np.int8), cells.quality, numbers=True)
    assert (list(whole), bad) == ([1.0, 0.0], [])
    part, bad = cells.convert(["1", "x", None, "x"], cells.quality, numbers=True)
    assert np.isnan(part[1:]).all()
    assert bad == [(1, "is not a number"), (2, "is missing"), (3, "is not a number")]
