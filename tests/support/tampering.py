"""A release as somebody changed it who can change its digests, too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.digest import digest_file, digest_json
from models.encoder.onnx import FILES


def repin(folder: Path) -> None:
    """Make the manifest's digests those of the files as they are now."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    encoder = {name: digest_file(folder / "encoder" / name) for name in FILES}
    named = [manifest[part] for part in ("encoder", "domains", "probes", "shrinkage")]
    for part in (*named, *manifest["predictors"].values()):
        part["encoder"] = digest_json(encoder)
        part["files"] = {
            name: digest_file(folder / part["folder"] / name) for name in part["files"]
        }
    for pin in manifest["predictors"].values():
        config = folder / pin["folder"] / "predictor.json"
        try:
            values = json.loads(config.read_text())
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and "encoder" in values:
            config.write_text(json.dumps({**values, "encoder": digest_json(encoder)}))
            pin["files"]["predictor.json"] = digest_file(config)
    path.write_text(json.dumps(manifest))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
