"""Lines of a segment are there as a whole or not at all, whatever the disk does."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monitoring.store.segment import Segment


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel takes so many bytes a file, and then says EFBIG: a full disk as the code sees it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def segment(tmp_path: Path, synced: bool = True) -> Segment:
    return Segment(tmp_path / "s.jsonl", synced=synced)


@pytest.mark.parametrize("synced", [True, False])
def test_a_write_cut_short_leaves_no_torn_line(tmp_path: Path, synced: bool) -> None:
    made = segment(tmp_path, synced)
    made.append(b"one\n", 1)
    with largest_file(10), pytest.raises(OSError, match="too large") as caught:
        made.append(b"0123456789\n", 1)
    assert caught.value.errno == errno.EFBIG
    assert made.path.read_bytes() == b"one\n"
    made.append(b"two\n", 1)  # there is room again
    assert made.path.read_bytes() == b"one\ntwo\n"
    assert (made.rows, made.size, made.spoiled) == (2, 8, False)
    made.close()


class Short:
    """A file that takes three bytes at a time."""

    def __init__(self, file: object) -> None:
        self.file = file

    def write(self, data: memoryview) -> int:
        return self.file.write(data[:3])  # type: ignore[attr-defined, no-any-return]

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def test_what_is_written_in_parts_is_whole(tmp_path: Path) -> None:
    made = segment(tmp_path)
    made._file = Short(made._file)  # type: ignore[assignment]
    made.append(b"0123456789\n", 1)
    assert made.path.read_bytes() == b"0123456789\n"
    made.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_after_a_failed_sync_the_file_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    made = segment(tmp_path)
    made.append(b"one\n", 1)

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            made.append(b"two\n", 1)
    assert made.spoiled
    assert made.path.read_bytes() == b"one\n"
    made.close()


def test_what_cannot_be_cut_back_is_not_written_to_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = segment(tmp_path)

    def fail(*_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "ftruncate", fail)
    with largest_file(3), pytest.raises(OSError, match="too large"):
        made.append(b"0123456789\n", 1)
    assert made.spoiled
    made.close()


def test_a_new_file_is_in_its_folder_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = os.fsync

    def note(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", note)
    segment(tmp_path).close()
    assert synced == [str(tmp_path)]


def test_a_file_that_was_removed_or_replaced_is_noticed(tmp_path: Path) -> None:
    made = segment(tmp_path)
    in_place = made.gone
    made.append(b"one\n", 1)
    made.path.rename(tmp_path / "moved")
    removed = made.gone
    made.path.write_bytes(b"")
    replaced = made.gone
    assert (in_place, removed, replaced) == (False, True, True)
    assert made.content() == b"one\n"
    made.close()
