"""Where exported encoders lie on this machine."""

from __future__ import annotations

from pathlib import Path

import filelock

from models.encoder import CONFIG_FILE
from models.encoder_export import PACKAGED_WEIGHTS_SHA256, export_encoder, packaged_model_folder


def prepared_encoder(home: Path) -> Path:
    """The packaged encoder's folder under home; exported once, by one process."""
    folder = home / "encoders" / PACKAGED_WEIGHTS_SHA256[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.parent / ".lock"):
        if not (folder / CONFIG_FILE).is_file():
            export_encoder(packaged_model_folder(), folder)
    return folder
