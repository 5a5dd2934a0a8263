import base64
import tracemalloc
from typing import Any

from serving.recent import Recent


def row(number: int, filler: int = 1500) -> dict[str, Any]:
    array = base64.b64encode(b"\x00" * 1536).decode()
    return {"id": str(number), "scores": "s" * filler, "embedding": array, "form": array}


def test_the_newest_rows_are_kept_without_their_arrays() -> None:
    recent = Recent(max_rows=3)
    for number in range(5):
        recent.put(str(number), row(number))
    assert recent.get("1") is None
    assert recent.get("4") == {"id": "4", "scores": "s" * 1500}
    recent.put("4", {"id": "4", "llm": "a"})
    assert recent.get("4") == {"id": "4", "llm": "a"}
    assert len(recent) == 3


def test_they_never_take_more_than_their_bytes() -> None:
    recent = Recent(max_bytes=100_000)
    for number in range(200):
        recent.put(str(number % 90), row(number, filler=100 * (number % 50)))
        assert recent.bytes <= 100_000
    recent.put("huge", row(0, filler=200_000))
    assert recent.get("huge") is None
    assert recent.bytes == 0


def test_a_row_takes_what_its_text_takes() -> None:
    """JSON as its encoder returns it would hold its whole buffer, ten times as much."""
    recent = Recent()
    rows = [row(number, filler=3000) for number in range(300)]
    tracemalloc.start()
    try:
        for kept in rows:
            recent.put(kept["id"], kept)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.2 * recent.bytes
