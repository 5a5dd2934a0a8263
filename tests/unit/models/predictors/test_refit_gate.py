"""Which refits may become a challenger."""

import pytest

from models.predictors.refit_gate import Errors, Refit


def refit(on_feedback: Errors, on_test: Errors) -> Refit:
    return Refit(None, 100, on_feedback, on_test, 0.0)  # type: ignore[arg-type]


SAME = Errors(0.2, 0.2, 0.01)
BETTER = Errors(0.2, 0.15, 0.01)
WORSE = Errors(0.2, 0.25, 0.01)
PERHAPS_WORSE = Errors(0.2, 0.21, 0.01)


@pytest.mark.parametrize(
    ("on_feedback", "on_test", "passes"),
    [
        (SAME, SAME, True),
        (BETTER, SAME, True),
        (PERHAPS_WORSE, PERHAPS_WORSE, True),
        (WORSE, BETTER, False),
        (SAME, WORSE, False),
        (BETTER, WORSE, True),
    ],
)
def test_the_gate(on_feedback: Errors, on_test: Errors, passes: bool) -> None:
    assert refit(on_feedback, on_test).passes == passes


def test_errors_are_shown_with_what_chance_explains() -> None:
    assert str(BETTER) == "0.2000 → 0.1500 ± 0.0100"
