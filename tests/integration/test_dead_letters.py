"""Dead letters tried again on Postgres, through the command."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from mixllm import cli
from monitoring.store.answers import spent_this_month
from monitoring.store.dead_letters import DeadLetter
from monitoring.store.journals import dead_letters_of


def test_what_postgres_takes_now_is_inserted_and_goes(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path))
    monkeypatch.setenv("MIXLLM_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("COLUMNS", "200")
    letters = dead_letters_of(tmp_path)["answers"]
    good = (
        b'{"decision_id": "00000000-0000-4000-8000-000000000001", "llm": "a", "status": "answered",'
        b' "finished_at": "2026-01-02T03:04:05+00:00", "attempts": [{}], "cost_usd": 0.5,'
        b' "seconds": 1.0, "streamed": false, "key_id": "k"}'
    )
    bad = good.replace(b"00001", b"00002").replace(b'"seconds": 1.0, ', b"")
    letters.add([DeadLetter.of(good, "lacks a column"), DeadLetter.of(bad, "lacks a value")])
    ended = CliRunner().invoke(cli.app, ["dead-letters", "retry", "--all"])
    assert ended.exit_code == 1
    assert "1 inserted, 1 refused" in ended.output
    assert "column seconds has no value" in ended.output
    assert [letter.row["decision_id"][-1] for letter in letters.read()] == ["2"]
    assert list(spent_this_month(engine, since=datetime(2026, 1, 1, tzinfo=UTC)).values()) == [0.5]
