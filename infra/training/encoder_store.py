"""Where exported encoders lie on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import filelock

from models.encoder.onnx import CONFIG_FILE, MIXED
from models.encoder_tuning.data import TuningData
from models.encoder_tuning.export import (
    PACKAGED_WEIGHTS_SHA256,
    export_encoder,
    packaged_model_folder,
    quantise_encoder,
)
from models.encoder_tuning.settings import TuningSettings


def prepared_encoder(home: Path) -> Path:
    """The packaged encoder's float32 folder under home; exported once, by one process."""
    folder = home / "encoders" / PACKAGED_WEIGHTS_SHA256[:16]
    with _lock(folder):
        if not (folder / CONFIG_FILE).is_file():
            from models.encoder_tuning.tunable import load_pretrained

            export_encoder(*load_pretrained(packaged_model_folder()), folder)
    return folder


def clustering_encoder(home: Path) -> Path:
    """The packaged encoder's int8 folder: what tags are compared and clustered by."""
    source = prepared_encoder(home)
    folder = source.with_name(f"{source.name}-{MIXED}")
    with _lock(folder):
        if not (folder / CONFIG_FILE).is_file():
            quantise_encoder(source, folder, MIXED)
    return folder


def built_encoder(
    home: Path,
    data: TuningData,
    settings: TuningSettings,
    *,
    tune: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The encoder of these data and settings; built unless it is there, by one process."""
    from models.encoder_tuning.build import build_encoder, encoder_identity

    kind = "tuned" if tune else "frozen"
    folder = home / "encoders" / f"{kind}-{encoder_identity(data, settings, tune=tune)[:16]}"
    with _lock(folder):
        if not (folder / CONFIG_FILE).is_file():
            build_encoder(folder, data, settings, tune=tune, progress=progress)
    return folder


def _lock(folder: Path) -> filelock.BaseFileLock:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder.parent / f".{folder.name}.lock")
