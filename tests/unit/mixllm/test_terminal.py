"""What is printed shows names and messages of others as they are, and a terminal acts on none."""

import io
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.markdown import Markdown
from rich.table import Table

from mixllm import cli, console
from mixllm.commands import drift, policy, releases
from mixllm.demo import Answered, print_answers
from mixllm.terminal import INERT, inert, open_console, print_plain, tolerate_odd_text
from models import escape
from models.errors import MixLLMError

PLAIN = "[b]x[/q] :x:"
HOSTILE = (
    PLAIN,
    f"\x1b[31m{PLAIN}",
    f"\x1b]0;title\x07{PLAIN}\r",
    f"\x9b2J{PLAIN}\u202e",
    f"{PLAIN} [link=http://x]",
)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def measures(name: str) -> dict[str, Any]:
    cell = {"value": 0.5, "low": None, "high": None}
    keys = ("aiq", "gap_closed", "cost_at_97.25%_quality", "quality_at_24.18%_cost", "aiq_over")
    return {
        "test_set": name,
        "test_queries": 3,
        "measures": {name: dict.fromkeys(keys, cell)},
        "predictors": [{"llm": name, "flags": name, "advice": name}],
        "notes": [name],
    }


def verdict(name: str) -> dict[str, Any]:
    row = {"number": 1, "at": "2026", "against": name, "verdict": "refused"}
    data = {"name": name, "digest": "ab" * 32, "queries": 5}
    return {**row, "reason": name, "changed": name, "data": data}


def statistics(name: str) -> dict[str, Any]:
    counts = dict.fromkeys(("applied", "binary", "graded", "corrections", "held"), 0)
    candidate = {"votes": 1, "mean_reward": 0.5, "mean_predicted": 0.5}
    return {
        **counts,
        "candidates": {name: candidate},
        "passed_over": {name: 1},
        "held_voters": [name],
    }


def demo_answers(name: str) -> None:
    queries = pd.DataFrame({"query_id": ["q"], "query": [name]})
    outcomes = pd.DataFrame({"query_id": ["q"], "llm": [name], "quality": [1.0]})
    test: Any = SimpleNamespace(queries=queries, outcomes=outcomes)
    answered = [Answered(name, name, 0.1, 0.1, None)]
    print_answers(console.console, test, answered, [0], [name])


def audit_row(name: str) -> dict[str, Any]:
    return {"at": AT, "alert_id": 1, "what": name, "why": name, "result": name}


PRINTED: dict[str, Callable[[str], object]] = {
    "a line": console.say,
    "a note": lambda name: console.show_notes([name]),
    "measures": lambda name: console.show_measures(measures(name)),
    "verdicts": lambda name: releases.show_verdicts("1", [verdict(name)], as_json=False),
    "a policy state": lambda name: policy.show_policy(statistics(name)),
    "steps": lambda name: console.show_rows([audit_row(name)], drift.AUDIT),
    "the demo": demo_answers,
    "a page": lambda name: console.console.print(Markdown(escape.markdown(name))),
}


@pytest.mark.parametrize("kind", PRINTED)
@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_they_are_and_do_nothing(
    kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    PRINTED[kind](name)
    out = "".join(capsys.readouterr())
    assert not INERT.search(out), out
    assert PLAIN in " ".join(out.split()), out


@pytest.mark.parametrize("name", HOSTILE)
def test_on_a_terminal_the_styles_are_ours_alone(name: str) -> None:
    def printed(text: str) -> str:
        file = io.StringIO()
        table = Table(text, title=text)
        table.add_row(text)
        open_console(file=file, width=80, force_terminal=True, highlight=False).print(table, text)
        return file.getvalue()

    assert printed(name).count("\x1b") == printed("x" * len(inert(name))).count("\x1b")
    assert PLAIN in printed(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_an_error_does_nothing_to_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise MixLLMError(name)

    monkeypatch.setattr(cli, "app", fail)
    for name_of_process in ("private_umask", "bypass_proxy"):  # theirs would outlive this test
        monkeypatch.setattr(cli, name_of_process, lambda: None)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    said = capsys.readouterr().err
    assert said.startswith("mixllm: ")
    assert said.endswith("\n")
    assert PLAIN in said
    assert not INERT.search(said)


def test_a_terminal_that_lacks_a_character_shows_its_escape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    tolerate_odd_text()
    print_plain("→ \ud800", sys.stdout)
    sys.stdout.flush()
    assert raw.getvalue() == b"\\u2192 \\ud800\n"
