"""Content digests: what makes an artifact itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def digest_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 form; lone surrogates are kept apart, never an error."""
    return digest_bytes(text.encode("utf-8", "surrogatepass"))


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    return digest_text(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str))


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over arrays: names, types, shapes and values."""
    seen = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        seen.update(f"{name} {array.dtype} {array.shape}\n".encode())
        seen.update(np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()
