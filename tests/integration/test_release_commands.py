"""What the commands about releases say last: the reason, on one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.registry.records import CHAMPION, ROUTER
from infra.registry.registry import Registry
from mixllm.commands import releases
from models.errors import NoRelease, ReleaseError

DATA = {"name": "mine", "digest": "ab" * 32, "split": "test", "queries": 80, "outcomes": 480}


def verdict(number: int, word: str, reason: str, against: str | None) -> dict[str, Any]:
    return {
        "number": number,
        "at": "2026-01-01T00:00:00+00:00",
        "verdict": word,
        "measured": word,
        "failed": [],
        "against": against,
        "reason": reason,
        "changed": "",
        "data": DATA,
        "inputs": {"data": DATA["digest"]},
    }


@pytest.fixture(scope="module")
def database(
    tmp_path_factory: pytest.TempPathFactory, new_registry: Callable[[Path], Registry]
) -> Path:
    """MLflow's, with what ``registry`` says. Copied for each test: making one takes seconds."""
    home = tmp_path_factory.mktemp("commands")
    made = new_registry(home)
    made.client.create_registered_model(ROUTER)
    for number in ("1", "2"):
        run = made.client.create_run(made.experiment(), run_name=number)
        made.client.create_model_version(ROUTER, "file:///nowhere", run.info.run_id)
    made.promote("1")
    made.add_verdict("2", verdict(1, "refused", "refused; fails: memory, MiB", "1"), [], "figures")
    return home / "mlflow.db"


@pytest.fixture
def registry(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Releases 1, the champion, and 2, refused by its first verdict. None has files."""
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path))
    shutil.copy(database, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "registry")


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip().splitlines()[-1]


def test_a_refused_release_is_not_promoted_and_the_reason_is_the_error(registry: Registry) -> None:
    with pytest.raises(
        ReleaseError, match=r"release 2, verdict 1: refused; fails: memory, MiB; judge"
    ):
        releases.promote("2")
    assert registry.alias(CHAMPION) == "1"


def test_a_forced_one_is_and_the_last_line_says_so(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    releases.promote("2", force=True)
    assert registry.alias(CHAMPION) == "2"
    assert last_line(capsys) == (
        "release 2 is champion; gate skipped (refused; fails: memory, MiB)"
    )
    assert registry.refused("2") is None
    releases.releases()
    assert "forced" in capsys.readouterr().out
    releases.rollback()
    assert last_line(capsys) == "release 1 is champion again"
    releases.rollback()
    assert last_line(capsys) == (
        "release 2 is champion again; its last verdict: refused; fails: memory, MiB"
    )


def test_forcing_overrules_the_verdicts_so_far_and_no_later_one(registry: Registry) -> None:
    registry.force("2")
    assert registry.refused("2") is None
    registry.add_verdict("2", verdict(2, "refused", "refused; fails: worth", "1"), [], "figures")
    assert registry.refused("2") == "refused; fails: worth"


def test_the_history_is_shown_and_the_last_verdict_counts(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    releases.releases("1")
    assert last_line(capsys) == "release 1 has not been judged: mixllm judge 1"
    registry.add_verdict("2", verdict(2, "passes", "passes 9 of 9 figures", "1"), [], "figures")
    releases.releases("2")
    shown = capsys.readouterr().out
    assert shown.count("80") == 2
    last = shown.strip().splitlines()[-1]
    assert last == "release 2, verdict 2: passes 9 of 9 figures; this one counts"
    registry.note_serving("2", "none of its LLMs can be called")
    releases.releases()
    assert last_line(capsys) == (
        "the service does not load release 2: none of its LLMs can be called"
    )
    registry.note_serving("2", None)
    releases.releases()
    assert "does not load" not in capsys.readouterr().out
    with pytest.raises(NoRelease, match="no release '7'"):
        releases.releases("7")


def test_the_champion_is_not_judged_against_itself(registry: Registry) -> None:
    with pytest.raises(ReleaseError, match="release 1 is the champion"):
        releases.judge("1")
    with pytest.raises(NoRelease, match="no release 'x'"):
        releases.judge("x")
