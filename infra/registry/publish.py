"""What a registered version says of its origin."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from models.encoder.onnx import REPORT_FILE


def figures(folder: Path) -> dict[str, str]:
    """What an encoder's build measured, as tags; nothing for any other part."""
    report = folder / REPORT_FILE
    if not report.is_file():
        return {}
    tags: dict[str, str] = json.loads(report.read_text())["tags"]
    return tags


def code_revision() -> str:
    """The commit of the code that runs, or the version where there is no repository."""
    root = Path(__file__).resolve().parents[2]
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import version

        return f"mixllm {version('mixllm')}"
    return found.stdout.strip()
