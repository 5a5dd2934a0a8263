"""The drift report: one page for people, above Evidently's; kept in Evidently's workspace too."""

from __future__ import annotations

from pathlib import Path

from monitoring.drift.comparison import add_to_workspace, compare
from monitoring.drift.page import Page, render


def write_report(page: Page, file: Path, workspace: Path) -> list[Path]:
    """Write the page, and one of it with Evidently's below (whose 5 MiB MLflow's pages do not show); add
    Evidently's to the workspace. Returns both files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = whole_page(file)
    snapshot, left_out = compare(page.reference, page.window, page.title)
    snapshot.save_html(str(whole))
    text = render(page, left_out)
    head, tag, rest = whole.read_text().partition("<body>")
    heading = '<div class="mixllm"><h2>Evidently: every column\'s distribution</h2></div>'
    whole.write_text(f"{head}{tag}\n{text}\n{heading}\n{rest}")
    link = f'<div class="mixllm"><p>Every column: <a href="{whole.name}">{whole.name}</a></p></div>'
    file.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>\n{text}\n{link}\n</body>\n')
    add_to_workspace(workspace, page.title, snapshot)
    return [file, whole]


def whole_page(file: Path) -> Path:
    """Where the page with Evidently's part lies, beside the page."""
    return file.with_stem(f"{file.stem}-evidently")
