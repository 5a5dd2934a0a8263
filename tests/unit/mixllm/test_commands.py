"""Commands on homes of every kind, in this process."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.guard.credentials import ensure_credentials
from infra.settings import read_settings
from mixllm import cli, context
from models.data.evaluation_set import EvaluationSet
from models.data.files import write_evaluation_set
from models.errors import MixLLMError, SettingsError

RUNNER = CliRunner()
OWN = ["demo", "up", "releases", "rollback", "shadow", "repair", "prune"]
COMMANDS = [
    *([command] for command in OWN),
    *([group, "list"] for group in ("policy", "drift", "alerts", "keys")),
    *(["promote", "1"], ["judge", "1"], ["canary", "0.1"], ["ope", "--release", "1"]),
    *(["drift", "check"], ["policy", "learn"], ["policy", "show"], ["candidate", "disable", "x"]),
    *(["keys", "create", "x"], ["candidate", "remove", "x"], ["alerts", "show", "1"]),
]
WITH_DATA = [["train"], ["evaluate"], ["calibrate"], ["audit-tags"], ["update-predictors"]]


def of(command: list[str]) -> str:
    return " ".join(command)


@pytest.mark.parametrize("command", COMMANDS, ids=of)
def test_a_home_that_is_a_file_is_said_at_once(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path / "file"))
    result = RUNNER.invoke(cli.app, command)
    assert isinstance(result.exception, SettingsError), result.exception
    assert "is a file, not a folder" in str(result.exception)


@pytest.mark.parametrize("command", WITH_DATA, ids=of)
def test_a_home_that_cannot_be_written_is_said_before_anything_is_computed(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulated: EvaluationSet
) -> None:
    write_evaluation_set(simulated, tmp_path / "data")
    monkeypatch.setenv("MIXLLM_HOME", "/proc/mixllm")
    result = RUNNER.invoke(cli.app, [*command, "--data", str(tmp_path / "data")])
    assert isinstance(result.exception, SettingsError), result.exception
    assert "/proc/mixllm cannot be written to" in str(result.exception)


def test_what_only_asks_the_service_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLLM_HOME", "/proc/mixllm")
    monkeypatch.setenv("MIXLLM_PORT", "9")
    result = RUNNER.invoke(cli.app, ["route", "hello"])
    assert isinstance(result.exception, MixLLMError)
    assert "no service answers at http://127.0.0.1:9" in str(result.exception)
    assert RUNNER.invoke(cli.app, ["schema"]).exit_code == 0


def test_login_shows_links_to_the_servers_of_the_stack_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path))
    password = ensure_credentials(tmp_path).password
    shown = RUNNER.invoke(cli.app, ["login"]).output
    assert f"mlflow    http://mixllm:{password}@127.0.0.1:5000/mixllm-login\n" in shown
    assert f"evidently http://mixllm:{password}@127.0.0.1:8000/mixllm-login\n" in shown
    assert f"prefect   http://127.0.0.1:4200, which asks for mixllm:{password}\n" in shown
    monkeypatch.setenv("MIXLLM_MLFLOW_URI", "https://me:secret@mlflow.example/")
    monkeypatch.setenv("MIXLLM_PREFECT_API_URL", "https://prefect.example/api")
    shown = RUNNER.invoke(cli.app, ["login"]).output
    assert "mlflow    https://mlflow.example, with its own login\n" in shown
    assert "prefect   https://prefect.example/api, with its own login\n" in shown
    assert "secret" not in shown


def test_prefect_has_a_home_on_a_new_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first start fails where the folder above its home is missing."""
    monkeypatch.setattr(os, "environ", {"MIXLLM_HOME": str(tmp_path / "a b" / "100%")})
    context.point_prefect(context.settings_with_stack())
    folder = tmp_path / "a b" / "100%" / "prefect"
    assert folder.is_dir()
    assert os.environ["PREFECT_HOME"] == str(folder)
    database = os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert database == f"sqlite+aiosqlite:///{tmp_path}/a b/100%25/prefect/prefect.db"
    patience = os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"]
    assert float(patience) > 20, "Prefect's own, too short for its first start on two cores"
    assert read_settings().home.stat().st_mode & 0o777 == 0o700
