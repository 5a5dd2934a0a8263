"""The files of a release: which there may be, how large they may be, and how they are read.

A release comes from a registry that others can write to. So its files have names from a fixed layout,
bounded sizes and a digest that is checked before anything reads them.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from models.errors import MixLLMError, ReleaseError

MIB: Final = 2**20
# Every file that a release may have, with its largest size in bytes.
MOST_BYTES: Final = {
    "manifest.json": 16 * MIB,
    "encoder.onnx": 2048 * MIB,
    "tokenizer.json": 64 * MIB,
    "encoder.json": MIB,
    "README.md": MIB,
    "encoder-report.json": 16 * MIB,
    "domains.json": 64 * MIB,
    "domains.safetensors": 256 * MIB,
    "probes.json": 64 * MIB,
    "probes.safetensors": 16 * MIB,
    "shrinkage.json": 4 * MIB,
    "shrinkage.safetensors": 256 * MIB,
    "predictor.json": 4 * MIB,
    "predictor.safetensors": 512 * MIB,
}
# The parts of a release: its folder's last name, the files it needs and those it may have.
NEEDED: Final = {
    "encoder": {"encoder.onnx", "tokenizer.json", "encoder.json"},
    "domains": {"domains.json", "domains.safetensors"},
    "probes": {"probes.json", "probes.safetensors"},
    "shrinkage": {"shrinkage.json", "shrinkage.safetensors"},
    "predictor": {"predictor.json", "predictor.safetensors"},
}
OPTIONAL: Final = {"encoder": {"README.md", "encoder-report.json"}}
SHA256: Final = re.compile(r"[0-9a-f]{64}")


def check_names(part: str, names: set[str]) -> None:
    """Raises ReleaseError where a part lacks a file or has one that the layout does not know."""
    if missing := NEEDED[part] - names:
        raise ReleaseError(f"{part}: {', '.join(sorted(missing))} is not among its files")
    if strange := names - NEEDED[part] - OPTIONAL.get(part, set()):
        shown = ", ".join(repr(name[:80]) for name in sorted(strange)[:3])
        raise ReleaseError(f"{part}: a release has no file {shown}")


def check_file(path: Path) -> None:
    """Raises ReleaseError where a path is not a plain file of a known name and an allowed size."""
    most = MOST_BYTES.get(path.name)
    if most is None:
        raise ReleaseError(f"{path}: a release has no such file")
    try:
        found = path.lstat()
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ReleaseError(f"{path}: not a plain file")
    if found.st_size > most:
        raise ReleaseError(f"{path}: {found.st_size} bytes, a release has {most} at most")


def check_tree(root: Path, allowed: set[str]) -> None:
    """Raises ReleaseError where a folder holds anything but these files, given by their paths in it."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if path.is_symlink():
                raise ReleaseError(f"{path}: a release has no links")
            if name in folders:
                if not any(file.startswith(f"{relative}/") for file in allowed):
                    raise ReleaseError(f"{path}: a release has no such folder")
            elif relative not in allowed:
                raise ReleaseError(f"{path}: a release has no such file")
            else:
                check_file(path)


def read_bytes(path: Path) -> bytes:
    """A file of a release. Raises ReleaseError."""
    check_file(path)
    try:
        with path.open("rb") as handle:
            data = handle.read(MOST_BYTES[path.name] + 1)
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}") from error
    if len(data) > MOST_BYTES[path.name]:
        raise ReleaseError(f"{path}: larger than {MOST_BYTES[path.name]} bytes")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object: UTF-8, finite numbers. Raises ReleaseError."""

    def number(text: str) -> float:
        value = float(text)
        if not np.isfinite(value):
            raise ValueError(f"{text[:20]} is not a finite number")
        return value

    data = read_bytes(path)
    try:
        parsed = json.loads(data.decode(), parse_constant=number, parse_float=number)
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{path}: {error}") from error
    if not isinstance(parsed, dict):
        raise ReleaseError(f"{path}: not a JSON object")
    return parsed


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, all finite numbers. Raises ReleaseError."""
    data = read_bytes(path)
    try:
        arrays = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ReleaseError(f"{path}: {error}") from error
    bad = sorted(name for name, array in arrays.items() if not np.isfinite(array).all())
    if bad:
        raise ReleaseError(f"{path}: {', '.join(bad)} not finite")
    return arrays


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever a release's content makes its readers raise is a ReleaseError."""
    try:
        yield
    except MixLLMError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise ReleaseError(f"{what}: {type(error).__name__}: {message}") from error
