"""What a service process holds, over files that others left."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from infra.settings import Settings
from monitoring.drift.alert_log import list_alerts
from monitoring.store.decisions import Asked, Fallback, count_decisions, fallback_row
from monitoring.store.journals import JOURNALS

pytestmark = pytest.mark.filterwarnings("ignore:bentoml.metrics module:DeprecationWarning")
GARBAGE = b'{}\n[1]\nnot JSON\n{"id": 7, "decision_id": null}\n'


@pytest.fixture
def state(tmp_path: Path, engine: Engine) -> Any:
    from serving.state import ServiceState

    home = tmp_path / "home"
    for kind in JOURNALS.values():
        (home / kind.folder).mkdir(parents=True)
        (home / kind.folder / "1-1-00000001.jsonl").write_bytes(GARBAGE + b'{"id": "to')
    address = engine.url.render_as_string(hide_password=False)
    made = ServiceState(Settings(home=home, database_url=SecretStr(address)))
    yield made
    made.journals.close()
    made.store.engine.dispose()


def test_garbage_in_every_journal_neither_stops_the_start_nor_the_rows_after_it(
    state: Any, engine: Engine
) -> None:
    from serving.http.responses import journal_summary

    assert state.decision_log.recall() == []
    row = fallback_row(Fallback("a", "a test \x00", 0.01, "1"), Asked("query", "full"), 0.001)
    state.decision_log.keep({**row, "llm": "\ud800"})
    kept, _ = state.decision_log.rows_of(UUID(row["id"]))
    assert kept["llm"] == "?"
    for name, journal in state.journals.by_name.items():
        assert journal.flush(), name
    summary = journal_summary(state)
    assert summary["dead_letters"] == dict.fromkeys(JOURNALS, 4)
    assert summary["unwritten_decisions"] == summary["unwritten_feedback"] == 0
    assert summary["database_error"] is None
    assert count_decisions(engine) == 1
    raised = [(a["name"], a["subject"]) for a in list_alerts(engine)]
    assert sorted(raised) == sorted(("rows-refused", name) for name in JOURNALS)


def test_a_decision_that_cannot_be_written_is_counted_and_fails_nothing(
    state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.http.responses import journal_summary

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    row = fallback_row(Fallback("a", "a test", 0.01, "1"), Asked("query", "full"), 0.001)
    monkeypatch.setattr(state.journals["decisions"], "append", full)
    state.decision_log.keep(row)
    assert journal_summary(state)["rows_lost"]["decisions"] == 1
    assert state.decision_log.remembers(row["id"])
