"""The lines of a text file, within limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from models.data.tables import limits
from models.files.regular_file import MIB, UnusableFile, open_text


def bounded_lines(file: IO[str], path: Path) -> Iterator[str]:
    """Lines with their ends. Raises UnusableFile for one that is too long, or too many of them."""
    number = read = 0
    try:
        while line := file.readline(limits.MOST_CELL + 1):
            number, read = number + 1, read + len(line)
            if len(line) > limits.MOST_CELL:
                raise UnusableFile(f"line {number}: longer than {limits.MOST_CELL // MIB} MiB")
            if number > limits.MOST_LINES or read > limits.MOST_BYTES:
                raise UnusableFile(
                    f"holds more than {limits.MOST_LINES:,} lines "
                    f"or {limits.MOST_BYTES // MIB:,} MiB of text"
                )
            yield line
    except UnicodeDecodeError as error:
        raise UnusableFile(undecodable(path, error)) from error
    except (OSError, EOFError) as error:
        raise UnusableFile(f"line {number + 1}: cannot be read: {error}") from error
    except Exception as error:
        if type(error).__module__ == "zlib":
            raise UnusableFile(f"line {number + 1}: cannot be decompressed: {error}") from error
        raise


def undecodable(path: Path, error: UnicodeDecodeError) -> str:
    """Which line of the file holds bytes that are not text."""
    if error.encoding != "utf-8":
        return f"is not valid UTF-16 ({error.reason}); save the file as UTF-8"
    with open_text(path, limits.MOST_BYTES) as file:
        raw: IO[bytes] = file.buffer  # type: ignore[attr-defined]
        number = 0
        while data := raw.readline(limits.MOST_CELL):
            number += 1
            try:
                data.decode()
            except UnicodeDecodeError as here:
                byte = data[here.start]
                return f"line {number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"
    return "is not UTF-8; save it as UTF-8"
