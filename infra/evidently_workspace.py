"""Evidently's workspace: a folder whose files its pages watch. A file that is half written ends the
watcher, or the next start: files come into it whole, by a move from beside it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from infra.addresses import direct_client

log = logging.getLogger("mixllm.evidently")

PROJECT_FILE: Final = "metadata.json"
DASHBOARD_FILE: Final = "dashboard.json"
SNAPSHOTS: Final = "snapshots"
ASIDE: Final = "evidently-aside"
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECONDS: Final = 10.0


@contextmanager
def staged(workspace: Path) -> Iterator[Path]:
    """A copy of the workspace without its snapshots, to be changed by Evidently; what was written to it
    is in the workspace afterwards, every file whole."""
    workspace.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace.parent, prefix=".evidently-") as name:
        copy = Path(name)
        for folder in projects(workspace):
            (copy / folder.name / SNAPSHOTS).mkdir(parents=True)
            for file in (PROJECT_FILE, DASHBOARD_FILE):
                if (folder / file).is_file():
                    shutil.copy2(folder / file, copy / folder.name / file)
        before = {path: path.stat().st_mtime_ns for path in files(copy)}
        yield copy
        changed = [path for path in files(copy) if before.get(path) != path.stat().st_mtime_ns]
        # A project before its snapshots: of an unknown project, the pages take none.
        for path in sorted(changed, key=lambda path: (SNAPSHOTS in path.parts, path)):
            target = workspace / path.relative_to(copy)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def projects(workspace: Path) -> list[Path]:
    """Each project's folder."""
    if not workspace.is_dir():
        return []
    return sorted(path.parent for path in workspace.glob(f"*/{PROJECT_FILE}") if is_id(path.parent))


def files(workspace: Path) -> list[Path]:
    return [path for path in workspace.rglob("*.json") if path.is_file()]


def is_id(path: Path) -> bool:
    return UUID.fullmatch(path.stem.lower()) is not None


def set_broken_aside(workspace: Path) -> list[Path]:
    """Move files that Evidently cannot read out of the workspace, since it would not start with them;
    returns where they are now."""
    from evidently.core.serialization import SnapshotModel
    from evidently.sdk.models import DashboardModel
    from evidently.ui.service.base import Project

    models = {PROJECT_FILE: Project, DASHBOARD_FILE: DashboardModel}
    moved = []
    for path in files(workspace):
        model = SnapshotModel if path.parent.name == SNAPSHOTS else models.get(path.name)
        try:
            content = json.loads(path.read_bytes())
            if model is not None:
                model.parse_obj(content)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            target = workspace.parent / ASIDE / path.relative_to(workspace)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            moved.append(target)
    return moved


def not_loaded(workspace: Path, address: str, login: tuple[str, str] | None) -> set[Path]:
    """Files of projects and snapshots that the pages at an address do not show.

    Raises httpx.HTTPError.
    """
    missing = set()
    with direct_client(base_url=address, auth=login, timeout=SECONDS) as client:
        shown = ids(client.get("/api/projects"))
        for folder in projects(workspace):
            if folder.name not in shown:
                missing.add(folder / PROJECT_FILE)
                continue
            snapshots = ids(client.get(f"/api/projects/{folder.name}/snapshots"))
            missing |= {
                path
                for path in folder.glob(f"{SNAPSHOTS}/*.json")
                if is_id(path) and path.stem not in snapshots
            }
    return missing


def ids(response: httpx.Response) -> set[str]:
    rows: list[dict[str, Any]] = response.raise_for_status().json()
    return {str(row["id"]) for row in rows}


class PagesCheck:
    """Whether Evidently's pages show what the workspace holds. What is missing twice in a row is not
    on its way: the watcher is dead."""

    def __init__(self, workspace: Path, address: str, login: tuple[str, str] | None = None) -> None:
        self.workspace, self.address, self.login = workspace, address, login
        self._missing: set[Path] = set()

    def problem(self) -> str | None:
        """What is wrong, if anything is."""
        try:
            missing = not_loaded(self.workspace, self.address, self.login)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            log.info("Evidently: %s", error)  # it starts, or is busy
            return None
        again, self._missing = missing & self._missing, missing
        if not again:
            return None
        self._missing = set()
        return f"does not show {len(again)} of the workspace's files"
