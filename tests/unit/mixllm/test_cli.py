"""The command line as a whole: its help, its version, its JSON."""

import dataclasses
import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

from mixllm import cli, console

RUNNER = CliRunner()
# Imported by the commands that need them; seconds each.
HEAVY = (
    "numpy", "pandas", "sklearn", "torch", "transformers", "onnxruntime", "matplotlib",
    "httpx", "sqlalchemy", "mlflow", "prefect", "bentoml", "evidently", "pydantic_settings",
)  # fmt: skip
PRINTS_NO_TABLE = {
    "mixllm demo", "mixllm up", "mixllm login", "mixllm ingest", "mixllm schema",
    "mixllm update-predictors", "mixllm promote", "mixllm rollback", "mixllm canary",
    "mixllm shadow", "mixllm repair", "mixllm prune", "mixllm fleet", "mixllm feedback import",
    "mixllm policy rollback", "mixllm policy rebuild", "mixllm drift check",
    "mixllm candidate add", "mixllm candidate refit", "mixllm candidate remove",
    "mixllm candidate disable", "mixllm candidate enable",
    "mixllm keys create", "mixllm keys revoke", "mixllm keys require", "mixllm keys open",
    "mixllm dead-letters show", "mixllm dead-letters retry", "mixllm dead-letters drop",
    "mixllm experiment latency", "mixllm experiment online",
}  # fmt: skip


def commands(group: TyperGroup, name: str = "mixllm") -> dict[str, TyperCommand]:
    """Full name → command."""
    out: dict[str, TyperCommand] = {}
    for part, command in group.commands.items():
        if isinstance(command, TyperGroup):
            out |= commands(command, f"{name} {part}")
        else:
            assert isinstance(command, TyperCommand)
            out[f"{name} {part}"] = command
    return out


def all_commands() -> dict[str, TyperCommand]:
    root = typer.main.get_command(cli.app)
    assert isinstance(root, TyperGroup)
    return commands(root)


def test_help_imports_nothing_heavy() -> None:
    script = "import sys, mixllm.cli; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()).isdisjoint(HEAVY)


def test_every_command_has_help_in_a_panel() -> None:
    root = typer.main.get_command(cli.app)
    assert isinstance(root, TyperGroup)
    for name, command in root.commands.items():
        assert getattr(command, "rich_help_panel", None), name
    for name, command in all_commands().items():
        assert command.help, name
        result = RUNNER.invoke(cli.app, [*name.split()[1:], "--help"])
        assert result.exit_code == 0, name


def test_every_command_that_prints_a_table_takes_json() -> None:
    with_json = {
        name
        for name, command in all_commands().items()
        if any("--json" in option.opts for option in command.params)
    }
    assert with_json == set(all_commands()) - PRINTS_NO_TABLE


def test_the_version_is_the_installed_one() -> None:
    assert RUNNER.invoke(cli.app, ["--version"]).stdout == f"mixllm {version('mixllm')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = RUNNER.invoke(cli.app, ["--show-completion", shell], prog_name="mixllm")
    assert "_MIXLLM_COMPLETE" in shown.stdout


@dataclasses.dataclass
class Row:
    at: datetime
    path: Path
    value: float


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row(datetime(2026, 1, 2, tzinfo=UTC), Path("/x"), math.nan)
    console.show_rows([row, {"value": math.inf}], {"value": str}, as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"at": "2026-01-02T00:00:00Z", "path": "/x", "value": None},
        {"value": None},
    ]


def test_no_rows_are_said_or_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_rows([], {"value": str}, empty="no rows")
    assert capsys.readouterr().out == "no rows\n"
    console.show_rows([], {"value": str}, as_json=True, empty="no rows")
    assert json.loads(capsys.readouterr().out) == []
