"""What the store holds, listed as tables and as JSON; and the state of a machine."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from mixllm import cli
from monitoring.store.journals import JOURNALS
from monitoring.store.keys import KeyOptions, create_key
from processes import free_port

RUNNER = CliRunner()


@pytest.fixture
def home(
    engine: Engine, empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A home beside a migrated database, with one key made. No server runs."""
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path))
    monkeypatch.setenv("MIXLLM_DATABASE_URL", empty_database)
    for name in ("PORT", "MLFLOW_PORT", "PREFECT_PORT", "EVIDENTLY_PORT"):
        monkeypatch.setenv(f"MIXLLM_{name}", str(free_port()))
    create_key(engine, "team", ["route"], KeyOptions(requests_per_minute=5))
    return tmp_path


def listed(*arguments: str) -> Any:
    result = RUNNER.invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_keys_are_listed_whole(home: Path) -> None:
    shown = listed("keys", "list")
    assert shown["required"] is True
    (key,) = shown["keys"]
    assert (key["name"], key["requests_per_minute"], key["spent_usd"]) == ("team", 5, 0.0)
    assert key["revoked_at"] is None
    assert "team" in RUNNER.invoke(cli.app, ["keys", "list"]).stdout


@pytest.mark.parametrize(
    "arguments",
    [["policy", "list"], ["drift", "list"], ["alerts", "list"], ["alerts", "audit"],
     ["dead-letters", "list"], ["releases"]],
)  # fmt: skip
def test_an_empty_listing_is_an_empty_list(home: Path, arguments: list[str]) -> None:
    assert listed(*arguments) == []


def test_status_says_what_does_not_run_and_what_waits(home: Path) -> None:
    folder = home / JOURNALS["feedback"].folder
    folder.mkdir()
    (folder / "1-2-3.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"cut sho')
    shown = listed("status")
    assert shown["stack_pid"] is None
    assert shown["serving"] is None
    assert not any(part["answers"] for part in shown["parts"].values())
    assert shown["unwritten"] == {**dict.fromkeys(JOURNALS, 0), "feedback": 2}
    assert shown["dead_letters"] == dict.fromkeys(JOURNALS, 0)
    assert shown["open_alerts"] == []
    assert shown["errors"] == {}
    text = RUNNER.invoke(cli.app, ["status"]).stdout
    assert "does not run: mixllm up" in text
    assert "2 feedback" in text


def test_status_says_what_could_not_be_looked_up(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLLM_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    why = listed("status")["errors"]["database"]
    assert why.startswith("postgresql://127.0.0.1:1/none cannot be used (OperationalError: ")
    assert why in str(RUNNER.invoke(cli.app, ["keys", "list"]).exception)
