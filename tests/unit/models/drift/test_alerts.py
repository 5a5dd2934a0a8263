from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.drift.alerts import KINDS, raised, read_rules
from models.drift.signals import Signal
from models.errors import SettingsError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RULES = read_rules(None)


def signal(p: float = 1e-3, lit: bool = True, subject: str = "a") -> Signal:
    return Signal("predictor-drift", subject, "x", 0.0, 1.0, 1.0, 0.1, p, 100, lit)


def test_one_window_is_not_enough_unless_beyond_doubt() -> None:
    assert raised([signal()], [], {}, RULES, NOW) == []
    assert raised([signal()], [("predictor-drift", "a")], {}, RULES, NOW) == [signal()]
    assert raised([signal(p=1e-9)], [], {}, RULES, NOW) == [signal(p=1e-9)]


def test_another_candidate_in_the_window_before_confirms_nothing() -> None:
    assert raised([signal()], [("predictor-drift", "b")], {}, RULES, NOW) == []


def test_what_is_not_lit_is_not_raised() -> None:
    assert raised([signal(p=1e-9, lit=False)], [("predictor-drift", "a")], {}, RULES, NOW) == []


def test_it_cools_down() -> None:
    last: dict[tuple[str, str | None], datetime] = {
        ("predictor-drift", "a"): NOW - timedelta(hours=23)
    }
    assert raised([signal(p=1e-9)], [], last, RULES, NOW) == []
    last = {("predictor-drift", "a"): NOW - timedelta(hours=25)}
    assert len(raised([signal(p=1e-9)], [], last, RULES, NOW)) == 1


def test_a_clock_that_went_back_silences_nothing() -> None:
    last: dict[tuple[str, str | None], datetime] = {
        ("predictor-drift", "a"): NOW + timedelta(days=400)
    }
    assert len(raised([signal(p=1e-9)], [], last, RULES, NOW)) == 1
    last = {("predictor-drift", "a"): NOW + timedelta(hours=1)}
    assert raised([signal(p=1e-9)], [], last, RULES, NOW) == []


def test_two_signals_of_one_subject_are_one_alert() -> None:
    assert raised([signal(p=1e-9), signal(p=1e-8)], [], {}, RULES, NOW) == [signal(p=1e-9)]


def test_every_alert_has_its_runbook() -> None:
    root = Path(__file__).parents[4]
    missing = [
        kind.page(name) for name, kind in KINDS.items() if not (root / kind.page(name)).is_file()
    ]
    assert missing == []


def test_rules_are_read_over_the_built_in_ones(tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    file.write_text("predictor-drift: {mode: act, least_effect: 0.2}\n")
    rules = read_rules(file)
    assert rules["predictor-drift"].mode == "act"
    assert rules["predictor-drift"].cooldown_hours == RULES["predictor-drift"].cooldown_hours
    assert rules.thresholds["predictor-drift"] == 0.2
    assert rules["stale-release"] == RULES["stale-release"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "predictor-drft: {mode: act}",
            "no alert 'predictor-drft'; did you mean 'predictor-drift'",
        ),
        ("predictor-drift: {mode: maybe}", "predictor-drift.mode: "),
        ("predictor-drift: {mood: act}", "predictor-drift.mood: "),
        ("- x", "expected a mapping"),
        ("{", "alerts.yaml"),
    ],
)
def test_a_bad_rule_is_an_error_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "alerts.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"alerts\.yaml") as error:
        read_rules(file)
    assert message in str(error.value)
