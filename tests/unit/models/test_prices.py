import numpy as np

from models.prices import token_cost


def test_prices_are_usd_per_million_tokens() -> None:
    assert token_cost(1_000_000, 500_000, 3.0, 10.0) == 8.0
    assert token_cost(0, 0, 3.0, 10.0) == 0.0


def test_many_answers_of_many_candidates_at_once() -> None:
    prompt = np.array([[1000.0], [2000.0]])
    response = np.array([[10.0, 20.0], [30.0, 40.0]])
    usd = token_cost(prompt, response, np.array([1.0, 2.0]), np.array([4.0, 5.0]))
    np.testing.assert_allclose(usd, [[1040e-6, 2100e-6], [2120e-6, 4200e-6]], rtol=1e-12)
