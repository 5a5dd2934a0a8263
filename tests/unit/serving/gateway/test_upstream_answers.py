"""An upstream's JSON, as servers write it."""

import gc
import sys
from typing import Any

import orjson
import pytest

from serving.gateway import upstream_answers
from serving.gateway.upstream_answers import NOTHING, parse_json


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"\xef\xbb\xbf[1]", [1]),
        (b"[NaN, Infinity, -Infinity, 1]", [None, None, None, 1]),
        (b"[1e999, -1e999, NaN]", [None, None, None]),
        (b'["\\ud83d", "\\ude00\\ud83d", "\\ud83d\\ude00"]', ["\ufffd", "\ufffd\ufffd", "😀"]),
        (b'{"\\ud83d": "\\ud83d", "n": 100000000000000000000, "x": NaN, "y": 1e999}',
         {"\ufffd": "\ufffd", "n": 1e20, "x": None, "y": None}),
        (b'["caf\xe9"]', ["caf\ufffd"]),
        (b'["NaN", "Infinity \\ud83d", NaN]', ["NaN", "Infinity \ufffd", None]),
        (b"[18446744073709551615, 18446744073709551616, NaN]", [2.0**64, 2.0**64, None]),
        (b"[" * 300 + b"NaN" + b"]" * 300, NOTHING),
        (b'["\\ud83d"' + b",[" * 300 + b"]" * 301, NOTHING),
        (b"[" * 100_000, NOTHING),
        (b"[NaN" + b"1" * 5000 + b"]", NOTHING),
        (b"{'a': 1}", NOTHING),
        (b"", NOTHING),
    ],
)  # fmt: skip
def test_json_that_is_not_strict_is_read_as_far_as_it_can_be(raw: bytes, value: Any) -> None:
    parsed = parse_json(raw)
    assert parsed == value or parsed is value
    if value is not NOTHING:
        assert orjson.loads(orjson.dumps(parsed)) == parsed


@pytest.mark.parametrize("odd", [b"NaN", b'"\\ud83d"', b"1e999"])
def test_each_value_of_an_odd_answer_costs_no_step_in_python(odd: bytes) -> None:
    steps = 0

    def count(*_: Any) -> Any:
        nonlocal steps
        steps += 1
        return count

    raw = b"[" + b'{"token": "a", "bytes": [], "logprob": -0.5},' * 5000 + odd + b"]"
    parse_json(b"[" + odd + b"]")  # codecs are imported at their first use
    before = sys.gettrace()
    gc.disable()  # its callbacks, such as Hypothesis', are steps of others
    sys.settrace(count)
    try:
        parsed = parse_json(raw)
    finally:
        sys.settrace(before)
        gc.enable()
    assert len(parsed) == 5001
    assert steps < 500


def test_an_odd_answer_of_a_mass_of_values_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_answers, "MAX_ODD_VALUES", 1000)
    assert parse_json(b"[" + b"1," * 1000 + b"NaN]") is NOTHING
    assert len(parse_json(b"[" + b"1," * 1000 + b"1]")) == 1001
