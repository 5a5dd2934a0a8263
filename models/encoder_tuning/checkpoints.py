"""Checkpoints of a training run: tensors as safetensors, the rest as JSON, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

TENSORS_FILE: Final = "checkpoint.safetensors"
VALUES_FILE: Final = "checkpoint.json"


class Checkpoint:
    """The last state of one run, in ``folder``.

    identity: digest of all that the run depends on; a checkpoint of another run is not loaded.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder / "checkpoint"
        self.identity = identity

    def save(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Replace the last state. A kill at any moment leaves the old one or the new one."""
        fresh, old = self.folder.with_suffix(".new"), self.folder.with_suffix(".old")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, fresh / TENSORS_FILE
        )
        (fresh / VALUES_FILE).write_text(json.dumps({"identity": self.identity, **values}))
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            os.replace(self.folder, old)
        os.replace(fresh, self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """(tensors, values) of the last state; None when there is none of this run."""
        for folder in (self.folder, self.folder.with_suffix(".old")):
            if not (folder / VALUES_FILE).is_file():
                continue
            values = json.loads((folder / VALUES_FILE).read_text())
            if values.pop("identity") == self.identity:
                return load_file(folder / TENSORS_FILE), values
        return None

    def clear(self) -> None:
        for folder in (
            self.folder,
            self.folder.with_suffix(".old"),
            self.folder.with_suffix(".new"),
        ):
            shutil.rmtree(folder, ignore_errors=True)
