"""The price of tokens: the one formula from token counts and prices to USD."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

# A number for one answer, an array for many at once.
Amount = TypeVar("Amount", float, np.ndarray)


def token_cost(
    prompt_tokens: Amount, response_tokens: Amount, input_price: Amount, output_price: Amount
) -> Amount:
    """USD for the tokens of a prompt and of its response.

    prompt_tokens, response_tokens: counts; arrays broadcast against the prices.
    input_price, output_price: USD per million tokens.
    """
    usd: Amount = (prompt_tokens * input_price + response_tokens * output_price) / 1e6
    return usd
