"""The report's page, from ten rows to many, whatever is missing."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from drifts import window
from models.drift.alerts import read_rules
from models.drift.signals import find_signals
from models.drift.windows import Window
from monitoring.drift.page import Page
from monitoring.drift.report import write_report

RULES = read_rules(None)
REFERENCE = window(seed=1, count=1000)


def written(tmp_path: Path, now: Window, reference: Window = REFERENCE, **more: Any) -> str:
    signals = find_signals(reference, now, now)
    page = Page("Release 1, window 3", reference, now, signals, {}, [], RULES, **more)
    write_report(page, tmp_path / "drift" / "window.html", tmp_path / "evidently")
    (snapshot,) = (tmp_path / "evidently").glob("*/snapshots/*.json")
    assert snapshot.stat().st_size > 0
    short = (tmp_path / "drift" / "window.html").read_text()
    whole = (tmp_path / "drift" / "window-evidently.html").read_text()
    assert len(short) < 1_000_000 < len(whole)
    assert "Evidently: every column" in whole
    assert "window-evidently.html" in short
    return short + whole


def test_it_says_what_moved_since_when_and_what_to_do(tmp_path: Path) -> None:
    text = written(tmp_path, window(seed=2, worse={"cheap": 0.5}))
    assert "An LLM no longer does as predicted (cheap)" in text
    assert "Since this window" in text
    assert "docs/runbooks/predictor-drift.md" in text
    assert "Drifted" in text
    assert "<svg" in text


def test_it_says_when_nothing_moved(tmp_path: Path) -> None:
    assert "Nothing moved beyond what chance explains" in written(tmp_path, window(seed=2))


@pytest.mark.parametrize("count", [10, 5000])
def test_of_few_and_of_many_rows(tmp_path: Path, count: int) -> None:
    text = written(tmp_path, window(seed=2, count=count))
    assert f"{count:,} decisions" in text


def test_without_feedback_it_says_so(tmp_path: Path) -> None:
    text = written(tmp_path, window(seed=2, votes=0.0))
    assert "No feedback came on these decisions" in text
    assert "Not compared, too few values: vote" in text


def test_a_new_candidate_is_named(tmp_path: Path) -> None:
    now = window(seed=2)
    now.rows.loc[:99, "llm"] = "newcomer"
    assert "Never chosen in the reference, so not compared: newcomer" in written(tmp_path, now)


def test_missing_columns_and_embeddings(tmp_path: Path) -> None:
    few = ["position", "llm", "quality"]
    bare = [Window.of(pd.DataFrame(w.rows[few])) for w in (window(seed=2), REFERENCE)]
    text = written(tmp_path, *bare)
    assert "unseen score" in text.partition("Not compared, too few values")[2]


def test_what_users_wrote_is_escaped(tmp_path: Path) -> None:
    now = window(seed=2)
    now.rows["domain"] = "<script>alert(1)</script>"
    text = written(tmp_path, now, verdicts=["<b>release 2</b>"])
    assert "<script>alert(1)" not in text
    assert "&lt;b&gt;release 2" in text


def test_windows_join_one_project(tmp_path: Path) -> None:
    for seed in (2, 3):
        now = window(seed=seed)
        page = Page(f"window {seed}", REFERENCE, now, [], {}, [], RULES)
        write_report(page, tmp_path / f"{seed}.html", tmp_path / "evidently")
    assert len(list((tmp_path / "evidently").glob("*/snapshots/*.json"))) == 2
    assert len(list((tmp_path / "evidently").glob("*/metadata.json"))) == 1
