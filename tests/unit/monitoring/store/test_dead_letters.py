"""Dead letters: kept once, shown, tried again, dropped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mixllm import cli
from models.errors import StoreError
from monitoring.store.dead_letters import FILE, DeadLetter, DeadLetters


@pytest.fixture
def letters(tmp_path: Path) -> DeadLetters:
    made = DeadLetters(tmp_path / "journal")
    made.add([DeadLetter.of(b'{"id": %d}' % n, f"reason {n}") for n in range(3)])
    return made


def test_a_row_is_kept_once(letters: DeadLetters) -> None:
    again = DeadLetter.of(b'{"id": 1}', "another reason")
    assert letters.add([again, DeadLetter.of(b"{", "not a row")]) == 1
    assert letters.count() == 4
    assert [letter.reason for letter in letters.read()][:2] == ["reason 0", "reason 1"]


def test_those_that_go_in_are_removed(letters: DeadLetters) -> None:
    taken: list[Any] = []

    def insert(rows: Sequence[dict[str, Any]]) -> None:
        if rows[0]["id"] == 1:
            raise ValueError("column llm has no value\nDETAIL: a secret")
        taken.extend(rows)

    refused = letters.retry(letters.read(), insert)
    assert list(refused.values()) == ["ValueError: column llm has no value"]
    assert taken == [{"id": 0}, {"id": 2}]
    assert [letter.row for letter in letters.read()] == [{"id": 1}]


def test_a_damaged_file_still_shows_what_can_be_read(letters: DeadLetters) -> None:
    with (letters.folder / FILE).open("ab") as handle:
        handle.write(b'{"id": "torn\n[]\n')
    assert letters.count() == 3


def test_when_none_are_left_the_file_goes(letters: DeadLetters) -> None:
    letters.remove([letter.id for letter in letters.read()])
    assert not (letters.folder / FILE).exists()
    assert letters.count() == 0


def test_the_command_shows_and_drops(
    letters: DeadLetters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path))
    letters.add([DeadLetter.of(b"[1]", "not a row: not a JSON object but list")])

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli.app, ["dead-letters", *arguments])
        if result.exception is not None:
            raise result.exception
        return result.output

    assert "reason 1" in run("list")
    first, *_, last = letters.read()
    shown = json.loads(run("show", first.id))
    assert (shown["journal"], shown["row"]) == ("decisions", {"id": 0})
    assert json.loads(run("show", last.id))["row"] == "[1]"
    with pytest.raises(StoreError, match="or --all"):
        run("drop")
    with pytest.raises(StoreError, match="no dead letter 'zz'"):
        run("drop", "zz")
    run("drop", first.id[:8])
    assert letters.count() == 3
    run("drop", "--all")
    assert "no dead letters" in run("list")
