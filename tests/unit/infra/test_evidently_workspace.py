"""Files come into Evidently's workspace whole, and pages that show less than it holds are noticed."""

import http.server
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.addresses import http_url
from infra.evidently_workspace import PagesCheck, set_broken_aside, staged

PROJECT = str(uuid.uuid4())
EMPTY = {
    "report": {"items": []}, "timestamp": "2026-01-02T03:04:05", "metadata": {}, "tags": [],
    "metric_results": {}, "top_level_metrics": [], "widgets": [], "tests_widgets": [],
}  # fmt: skip


def add(workspace: Path, project: str, snapshot: str) -> None:
    (workspace / project / "snapshots").mkdir(parents=True, exist_ok=True)
    (workspace / project / "metadata.json").write_text(json.dumps({"id": project, "name": "p"}))
    (workspace / project / "snapshots" / f"{snapshot}.json").write_text(json.dumps(EMPTY))


def test_nothing_is_seen_before_it_is_whole(tmp_path: Path) -> None:
    workspace = tmp_path / "evidently"
    with staged(workspace) as copy:
        add(copy, PROJECT, str(uuid.uuid4()))
        assert list(workspace.iterdir()) == []
    assert len(list(workspace.glob("*/snapshots/*.json"))) == 1
    first = (workspace / PROJECT / "metadata.json").stat().st_ino
    with staged(workspace) as copy:
        assert (copy / PROJECT / "metadata.json").is_file()
        assert list(copy.glob("*/snapshots/*.json")) == [], "what is there need not be read again"
        (copy / PROJECT / "snapshots" / f"{uuid.uuid4()}.json").write_text("{}")
    assert len(list(workspace.glob("*/snapshots/*.json"))) == 2
    assert (workspace / PROJECT / "metadata.json").stat().st_ino == first, "unchanged, so untouched"
    assert [path.name for path in tmp_path.iterdir()] == ["evidently"]


def test_a_write_that_fails_leaves_the_workspace_alone(tmp_path: Path) -> None:
    workspace = tmp_path / "evidently"

    def fail() -> None:
        with staged(workspace) as copy:
            add(copy, PROJECT, str(uuid.uuid4()))
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert list(workspace.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", '{"id": ', "\x00\x00", "[]", "{}", "null", '{"report": {"items": 1}}', "[" * 10_000],
)
def test_files_that_evidently_cannot_read_are_set_aside(tmp_path: Path, text: str) -> None:
    workspace = tmp_path / "evidently"
    good, bad = str(uuid.uuid4()), str(uuid.uuid4())
    add(workspace, PROJECT, good)
    (workspace / PROJECT / "snapshots" / f"{bad}.json").write_text(text)
    assert [path.stem for path in set_broken_aside(workspace)] == [bad]
    assert [path.stem for path in workspace.glob("*/snapshots/*.json")] == [good]
    assert set_broken_aside(workspace) == []
    other = str(uuid.uuid4())
    for name in ("metadata.json", "dashboard.json"):
        add(workspace, other, good)
        (workspace / other / name).write_text(text)
        assert [path.name for path in set_broken_aside(workspace)] == [name]


@pytest.fixture
def pages() -> Iterator[tuple[str, dict[str, list[str]]]]:
    """A server that shows the ids it is told, by path."""
    shown: dict[str, list[str]] = {}

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps([{"id": identity} for identity in shown.get(self.path, [])]).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield http_url("127.0.0.1", server.server_address[1]), shown
    server.shutdown()
    server.server_close()
    thread.join()


def test_pages_that_show_less_than_there_is_are_noticed_at_the_second_look(
    tmp_path: Path, pages: tuple[str, dict[str, list[str]]]
) -> None:
    address, shown = pages
    snapshot = str(uuid.uuid4())
    add(tmp_path, PROJECT, snapshot)
    check = PagesCheck(tmp_path, address)
    assert check.problem() is None, "it may be on its way"
    assert check.problem() == "does not show 1 of the workspace's files"
    assert check.problem() is None, "it was restarted"
    shown["/api/projects"] = [PROJECT]
    assert check.problem() is None
    assert check.problem() == "does not show 1 of the workspace's files"
    shown[f"/api/projects/{PROJECT}/snapshots"] = [snapshot]
    assert [check.problem() for _ in range(3)] == [None] * 3


def test_pages_that_do_not_answer_are_not_judged(tmp_path: Path) -> None:
    add(tmp_path, PROJECT, str(uuid.uuid4()))
    check = PagesCheck(tmp_path, "http://127.0.0.1:9")
    assert [check.problem() for _ in range(3)] == [None] * 3
