import numpy as np
import pandas as pd
import pytest

from drifts import window
from models.drift.windows import Window, domain_shares, figures, residuals


def test_missing_columns_are_unknown() -> None:
    found = Window.of(pd.DataFrame({"llm": ["a", "b"], "quality": [0.5, 0.6]}))
    assert found.total == 2
    assert found.rows["reward"].isna().all()
    assert figures(found)["satisfaction"] is None
    assert figures(found)["predicted quality"] == pytest.approx(0.55)


def test_an_empty_window_has_no_figures() -> None:
    found = Window.of(pd.DataFrame())
    assert len(found) == 0
    assert set(figures(found).values()) == {None}
    assert domain_shares(found) == {}


def test_residuals_are_observed_less_predicted() -> None:
    rows = pd.DataFrame(
        {
            "llm": ["a"],
            "quality": [0.6],
            "reward": [1.0],
            "response_tokens": [99.0],
            "observed_tokens": [199.0],
            "observed_seconds": [4.0],
            "observed_catalog_seconds": [2.0],
        }
    )
    found = residuals(Window.of(rows).rows).iloc[0]
    assert found["quality"] == pytest.approx(0.4)
    assert found["tokens"] == pytest.approx(np.log(2.0))
    assert found["seconds"] == pytest.approx(np.log(2.0))


def test_figures_of_a_window() -> None:
    found = figures(window(count=2000))
    assert found["largest share"] == pytest.approx(0.5, abs=0.05)
    assert found["quality beyond prediction"] == pytest.approx(0.0, abs=0.05)
    assert found["cost over predicted"] == pytest.approx(1.0, abs=0.05)
    assert found["votes a decision"] == pytest.approx(0.5, abs=0.05)
