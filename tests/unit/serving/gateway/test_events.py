import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.gateway.events import EventParser, EventTooLong, ServerEvent

STREAM = (
    b"\xef\xbb\xbf: comment\n\ndata: a\r\n\r\nevent: ping\rdata:b\r\rid: 1\ndata\ndata:  c\xc3\xa9\n\n"
    b"retry: 5\nunknown\n\nevent: lost\n\ndata: d"
)
EVENTS = [
    ServerEvent("", b"a"),
    ServerEvent("ping", b"b"),
    ServerEvent("", b"\n c\xc3\xa9"),
    ServerEvent("", b"d"),
]


def parsed(pieces: list[bytes], **bounds: int) -> list[ServerEvent]:
    parser = EventParser(**bounds)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.end()]


def test_events_are_read_as_the_standard_has_them() -> None:
    assert parsed([STREAM]) == EVENTS
    assert parsed([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


def test_an_event_comes_with_its_last_byte() -> None:
    parser = EventParser()
    assert list(parser.feed(b"data: a\r\n\r")) == [ServerEvent("", b"a")]
    assert list(parser.feed(b"")) == []
    assert list(parser.feed(b"\ndata: b\n\n")) == [ServerEvent("", b"b")]


@given(
    raw=st.lists(
        st.sampled_from([b"data:", b" ", b"x", b"\r", b"\n", b"\r\n", b":", b"event: e", b"\xef\xbb"])
    ).map(b"".join),
    sizes=st.lists(st.integers(0, 9), min_size=1).filter(any),
)  # fmt: skip
@settings(deadline=None, derandomize=True, database=None, max_examples=100)
def test_the_pieces_do_not_matter(raw: bytes, sizes: list[int]) -> None:
    pieces, rest = [], raw
    while rest:
        for size in sizes:
            pieces.append(rest[:size])
            rest = rest[size:]
    assert parsed(pieces) == parsed([raw])


@pytest.mark.parametrize(
    "raw", [b"data: " + b"x" * 200, b"data: xxxxxxxxx\n" * 20, b"data:\n" * 20, b":\n" * 20, b"\n" * 20]
)  # fmt: skip
def test_every_buffer_has_a_bound(raw: bytes) -> None:
    for pieces in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
        with pytest.raises(EventTooLong):
            parsed(pieces, max_bytes=100, max_lines=15)
