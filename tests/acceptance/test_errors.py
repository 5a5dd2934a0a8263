"""Errors that a user can fix, as people see them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from commands import free_port, run
from mixllm import cli


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which nothing was trained."""
    return tmp_path_factory.mktemp("new")


def refused(
    arguments: Sequence[str | Path],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """The last line of a command that fails in this process, which saves the seconds of a start."""
    own = {"MIXLLM_HOME": str(home), "MIXLLM_PORT": free_port()}
    monkeypatch.setattr(os, "environ", {**os.environ, **own})
    monkeypatch.setattr(sys, "argv", ["mixllm", *map(str, arguments)])
    umask = os.umask(0o022)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        os.umask(umask)
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("mixllm: ")
    return last


def test_a_bad_file_of_rules_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text("predictor-drft: {mode: act}")
    monkeypatch.setenv("MIXLLM_ALERTS", str(rules))
    for command in (["up"], ["drift", "check"], ["repair"]):
        last = refused(command, tmp_path, monkeypatch, capsys)
        assert "did you mean 'predictor-drift'" in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "/nowhere"], "/nowhere: no such folder"),
        (["evaluate", "--data", "/nowhere"], "/nowhere: no such folder"),
        (["promote", "7"], "no release '7' in MLflow; known: none yet"),
        (["rollback"], "no release was champion before this one"),
        (["releases"], "no release is registered yet"),
        (["ingest", "/nowhere.csv", "--out", "/tmp/x"], "/nowhere.csv: no such file"),
        (["policy", "learn"], "no release is champion yet"),
        (["policy", "show", "7"], "no policy state 7"),
        (["feedback", "import", "/nowhere.jsonl"], "/nowhere.jsonl: No such file or directory"),
        (["update-predictors", "--data", "/nowhere"], "/nowhere: no such folder"),
        (["ope", "--release", "7"], "no release is champion yet"),
        (["judge", "7"], "no release '7' in MLflow"),
        (["drift", "check"], "no release is champion yet"),
        (["repair"], "no release is champion yet"),
        (["canary", "0.1"], "there is no challenger"),
        (["shadow"], "there is no challenger"),
        (["canary", "0.1", "--by", "luck"], "--by luck: keys or traffic"),
        (["judge", "7", "--data", "/nowhere"], "no release '7' in MLflow"),
        (["alerts", "show", "7"], "no alert 7; see: mixllm alerts list"),
        (["route", "hello"], "no service answers at http://127.0.0.1"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    arguments: list[str],
    message: str,
    new_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(arguments, new_home, monkeypatch, capsys)


def test_a_process_ends_with_that_line(tmp_path: Path) -> None:
    done = run("train", "--data", "/nowhere", home=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "mixllm: /nowhere: no such folder\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "thaw"], "encoder: Input should be 'frozen', 'reuse' or 'fine-tune'"),
        (["--tagger", "llm"], "the llm tagger needs MIXLLM_TAGGER_URL"),
        (["--domains", "many"], "domains"),
        (["--tuning", "no.yaml"], "no.yaml: no such file"),
        (["--tuning", "typo.yaml"], "tuning.epoch: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_with_training_options_is_said(
    arguments: list[str],
    message: str,
    data: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "typo.yaml").write_text("epoch: 3\n")
    given = [str(tmp_path / a) if a.endswith(".yaml") else a for a in arguments]
    out = ("--out", tmp_path / "r.json", "--choices", tmp_path / "c.parquet")
    command: list[str | Path] = ["evaluate", "--data", data, *out, *given]
    assert message in refused(command, home, monkeypatch, capsys)


def test_reusing_an_encoder_needs_a_champion(
    data: Path,
    new_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ("--out", tmp_path / "r.json", "--choices", tmp_path / "c.parquet")
    command: list[str | Path] = ["evaluate", "--data", data, "--encoder", "reuse", *out]
    message = "no release is champion yet, so there is no encoder to reuse"
    assert message in refused(command, new_home, monkeypatch, capsys)
