"""Embeddings on disk, so that no query is embedded twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from models.digest import digest_text
from models.encoder.onnx import OnnxEncoder, encoder_digest


class EmbeddingCache:
    """Embeddings on disk, by encoder digest and query digest.

    One append-only pair of files per encoder: ``keys.txt`` (a query digest a line) and
    ``embeddings.f32`` (as many rows of d float32). A row whose key was not written whole is unused.
    """

    def __init__(self, folder: Path, encoder: OnnxEncoder) -> None:
        self.encoder = encoder
        self.folder = folder / encoder_digest(encoder.folder)[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keys_path = self.folder / "keys.txt"
        self.rows_path = self.folder / "embeddings.f32"
        self.embedded = 0
        self._load()

    def _load(self) -> None:
        keys = self.keys_path.read_text().split("\n")[:-1] if self.keys_path.exists() else []
        width = self.encoder.dimension
        data = (
            np.fromfile(self.rows_path, dtype=np.float32)
            if self.rows_path.exists()
            else np.zeros(0, np.float32)
        )
        count = min(len(keys), len(data) // width)
        keys, self._rows = keys[:count], data[: count * width].reshape(count, width)
        self._index = {key: i for i, key in enumerate(keys)}
        if self.keys_path.exists():  # drop what an interrupted write left half done
            self.keys_path.write_text("".join(f"{key}\n" for key in keys))
            self._rows.tofile(self.rows_path)

    def encode(
        self, queries: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Embeddings (n, d) of the queries; only those never seen are computed."""
        digests = [digest_text(query) for query in queries]
        new = {d: q for d, q in zip(digests, queries, strict=True) if d not in self._index}
        if progress is not None:
            progress(len(queries) - len(new))
        if new:
            chunk = 512  # what an interrupted run loses at most
            keys = list(new)
            for start in range(0, len(keys), chunk):
                part = keys[start : start + chunk]
                self._append(part, self.encoder.encode([new[k] for k in part], progress=progress))
        self.embedded += len(new)
        return self._rows[[self._index[d] for d in digests]] if digests else self._rows[:0]

    def _append(self, keys: list[str], rows: np.ndarray) -> None:
        with self.rows_path.open("ab") as handle:
            handle.write(np.ascontiguousarray(rows, dtype=np.float32).tobytes())
        with self.keys_path.open("a") as handle:
            handle.write("".join(f"{key}\n" for key in keys))
        first = len(self._index)
        self._index |= {key: first + i for i, key in enumerate(keys)}
        self._rows = np.concatenate([self._rows, rows])
