"""Decisions and answers that the service keeps: found again, by their owner alone, whatever fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi import HTTPException
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from infra.settings import Settings
from monitoring.store.decisions import Asked, Fallback, fallback_row, new_id

pytestmark = pytest.mark.filterwarnings("ignore:bentoml.metrics module:DeprecationWarning")


@pytest.fixture
def state(tmp_path: Path, engine: Engine) -> Iterator[Any]:
    from serving.state import ServiceState

    address = engine.url.render_as_string(hide_password=False)
    made = ServiceState(Settings(home=tmp_path / "home", database_url=SecretStr(address)))
    yield made
    made.journals.close()
    made.store.engine.dispose()


def decision(key_id: str | None = "team") -> dict[str, Any]:
    return fallback_row(Fallback("a", "a test", 0.01, "1"), Asked("query", "full", key_id), 0.001)


def answer(row: dict[str, Any], llm: str = "a") -> dict[str, Any]:
    return {
        "decision_id": row["id"],
        "finished_at": row["decided_at"],
        "llm": llm,
        "status": "answered",
        "error": None,
        "attempts": [],
        "prompt_tokens": 3,
        "response_tokens": 5,
        "cost_usd": 0.001,
        "lost_usd": None,
        "first_token_seconds": None,
        "seconds": 0.5,
        "streamed": False,
        "key_id": row["key_id"],
    }


def test_a_decision_is_its_owner_s_and_a_foreign_one_looks_like_none(state: Any) -> None:
    row = decision()
    state.decision_log.keep(row)
    state.decision_log.keep_answer(answer(row))
    shown = state.decision_log.shown(UUID(row["id"]), "team")
    assert shown["llm"] == shown["answer"]["llm"] == "a"
    assert shown.keys().isdisjoint({"embedding", "form", "key_id"})
    refusals = []
    for identity in (UUID(row["id"]), new_id()):
        with pytest.raises(HTTPException) as refused:
            state.decision_log.owned(identity, "another team")
        assert refused.value.status_code == 404
        refusals.append(str(refused.value.detail).replace(str(identity), "ID"))
    assert len(set(refusals)) == 1


def test_what_memory_has_forgotten_comes_from_postgres(state: Any) -> None:
    row = decision()
    state.decision_log.keep(row)
    state.decision_log.keep_answer(answer(row))
    state.decision_log._recent.max_rows = 0
    state.decision_log.keep(decision())
    assert not state.decision_log.remembers(row["id"])
    waiting, _ = state.decision_log.rows_of(UUID(row["id"]))
    assert waiting is not None, "it is in this machine's files still"
    for name in ("decisions", "answers"):
        assert state.journals[name].flush()
    stored, answered = state.decision_log.rows_of(UUID(row["id"]))
    assert (str(stored["id"]), answered["llm"]) == (row["id"], "a")


def test_a_restart_remembers_what_waits_in_files(state: Any, engine: Engine) -> None:
    from serving.state import ServiceState

    row = decision()
    state.decision_log.keep(row)
    state.decision_log.keep_answer(answer(row))
    again = ServiceState(state.settings)
    (recalled,) = again.decision_log.recall()
    assert recalled["decision_id"] == row["id"]
    assert again.decision_log.remembers(row["id"].upper())
    again.journals.close()


def test_a_database_that_is_away_is_asked_again(
    state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.records import connection

    def away(*_: Any, **__: Any) -> Engine:
        raise OSError("the embedded server did not start")

    with monkeypatch.context() as broken:
        broken.setattr(connection, "open_store", away)
        with pytest.raises(SQLAlchemyError, match="did not start"):
            _ = state.store.engine
        row = decision()
        state.decision_log.keep(row)
        assert not state.journals["decisions"].flush()
        assert "did not start" in state.journals.database_error
    assert state.store.engine is state.store.engine
    assert state.journals["decisions"].flush()
    assert state.journals.database_error is None


def test_votes_are_written_after_the_decisions_they_are_about(
    state: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state.journals["decisions"], "flush", lambda: False)
    state.journals["feedback"].append({"id": new_id()})
    assert not state.journals["feedback"].flush()
    assert state.journals["feedback"].waiting == 1
    assert "wait for Postgres" in str(state.journals["feedback"].last_error)
