"""Hidden states after the fixed layers, kept on disk so that they are computed once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from models.digest import digest_json

# One matrix of float16 rows, all queries' tokens one after the other.
STATES_FILE: Final = "states.f16"
LAYOUT_FILE: Final = "layout.json"


class HiddenStates:
    """(t, d) float16 of each query, read from one memory-mapped file as they are needed.

    folder: where the file lies, under a name of its ``identity``.
    """

    def __init__(self, folder: Path, identity: str, lengths: Sequence[int], width: int) -> None:
        self.folder = folder / f"hidden-{identity[:16]}"
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - np.asarray(lengths)
        self.width = width
        self._rows: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        return int(2 * self.width * self.ends[-1]) if len(self.ends) else 0

    def fill(
        self,
        batches: Sequence[np.ndarray],
        compute: Callable[[np.ndarray], torch.Tensor],
        progress: Callable[[int], None],
    ) -> HiddenStates:
        """Compute what is not there. compute: query numbers (b,) → (b, t, d), t the longest.
        progress: called with the number of batches done."""
        if not (self.folder / LAYOUT_FILE).is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            shape = (max(int(self.ends[-1]), 1), self.width)
            rows = np.memmap(self.folder / "states.new", np.float16, "w+", shape=shape)
            for number, batch in enumerate(batches, start=1):
                states = compute(batch).float().cpu().numpy()
                for state, i in zip(states, batch, strict=True):
                    rows[self.starts[i] : self.ends[i]] = state[: self.ends[i] - self.starts[i]]
                progress(number)
            rows.flush()
            os.replace(self.folder / "states.new", self.folder / STATES_FILE)
            (self.folder / LAYOUT_FILE).write_text(json.dumps({"shape": shape}))
        shape = tuple(json.loads((self.folder / LAYOUT_FILE).read_text())["shape"])
        self._rows = np.memmap(self.folder / STATES_FILE, np.float16, "r", shape=shape)
        return self

    def batch(self, queries: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Query numbers (b,) → (b, t, d) float32, padded with zeros, and the (b, t) mask."""
        assert self._rows is not None
        lengths = self.ends[queries] - self.starts[queries]
        hidden = torch.zeros(len(queries), int(lengths.max()), self.width)
        mask = torch.zeros(hidden.shape[:2], dtype=torch.int64)
        for i, (query, length) in enumerate(zip(queries, lengths, strict=True)):
            state = self._rows[self.starts[query] : self.ends[query]]
            hidden[i, :length] = torch.from_numpy(state.astype(np.float32))
            mask[i, :length] = 1
        return hidden, mask


def states_identity(weights: str, layers: int, tokens: Sequence[Sequence[int]]) -> str:
    """What hidden states depend on: the model's weights (a digest), how many layers, the tokens."""
    return digest_json([weights, layers, [list(row) for row in tokens]])
