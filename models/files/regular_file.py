"""Opening files that users name: regular files only, of bounded size, compressed or not.

A device or a pipe would be read for ever, and a few kilobytes of gzip can hold gigabytes.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
from pathlib import Path
from typing import IO, Any, Final, cast

MIB: Final = 1 << 20
KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
# How files of other kinds begin; each would otherwise be read as text and fail far from its cause.
MAGIC: Final = (
    (b"\x1f\x8b", "gzip-compressed; add .gz to its name"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook; save it as CSV"),
    (b"PAR1", "Parquet; end its name in .parquet"),
    (b"BZh", "bzip2-compressed; decompress it first"),
    (b"\xfd7zXZ", "xz-compressed; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; decompress it first"),
    (b"\xff\xfe\x00\x00", "UTF-32 text; save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text; save it as UTF-8"),
)


class UnusableFile(ValueError):
    """Why a file cannot be read; callers put its path in front."""


def check_regular(path: Path, most_bytes: int) -> None:
    """Raises UnusableFile unless it is a regular file of at most so many bytes."""
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise UnusableFile("no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UnusableFile(
            f"cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in KINDS if test(found.st_mode)), "a special file")
        raise UnusableFile(f"is {kind}, not a regular file")
    if found.st_size > most_bytes:
        raise UnusableFile(
            f"has {found.st_size / MIB:,.1f} MiB; at most {most_bytes / MIB:,.1f} MiB are read"
        )


def read_small(path: Path, most_bytes: int) -> str:
    """A small UTF-8 text file, whole. Raises UnusableFile."""
    check_regular(path, most_bytes)
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise UnusableFile(f"cannot be read: {error.strerror or error}") from error
    if len(data) > most_bytes:
        raise UnusableFile(f"has more than {most_bytes / MIB:,.1f} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnusableFile(
            f"line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def open_text(path: Path, most_bytes: int) -> IO[str]:
    """A text file to read line by line, newlines kept: UTF-8, or UTF-16 with a byte order mark; a
    name that ends in .gz is decompressed. Raises UnusableFile.

    most_bytes: of the file itself; the caller bounds what it reads.
    """
    check_regular(path, most_bytes)
    compressed = path.suffix == ".gz"
    try:
        raw = cast("IO[bytes]", gzip.GzipFile(path) if compressed else io.FileIO(path))
    except OSError as error:
        raise UnusableFile(f"cannot be read: {error.strerror or error}") from error
    try:
        start = raw.read(8)
        raw.seek(0)
        for magic, kind in MAGIC:
            if start.startswith(magic):
                raise UnusableFile(f"is {kind}")
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            encoding = "utf-16"
        elif b"\x00" in start:
            raise UnusableFile("holds NUL bytes where text should be; save it as UTF-8")
        else:
            encoding = "utf-8-sig"
    except BaseException as error:
        raw.close()
        if isinstance(error, (OSError, EOFError)) or type(error).__module__ == "zlib":
            raise UnusableFile(f"cannot be decompressed: {error}") from error
        raise
    return io.TextIOWrapper(io.BufferedReader(cast(Any, raw)), encoding=encoding, newline="")
