"""What candidates did on the training queries, as arrays that predictors learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.data.evaluation_set import EvaluationSet
from models.errors import ReleaseError
from models.predictors.predictor import MAX_RESPONSE_TOKENS
from models.predictors.ridge import PRIOR_QUALITY

PRIOR_LOG_TOKENS: Final = float(np.log(250.0))
PRIORS: Final = (PRIOR_QUALITY, PRIOR_LOG_TOKENS)


@dataclass(frozen=True)
class OutcomeTable:
    """L candidates on n queries, NaN where one did not answer. prices: (L, 2) USD per million input
    and output tokens. targets: (n, L, 2) quality and log(1 + billed response tokens)."""

    names: tuple[str, ...]
    prices: np.ndarray
    prompt_tokens: np.ndarray
    billed_tokens: np.ndarray
    cost_usd: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, data: EvaluationSet, names: Sequence[str]) -> OutcomeTable:
        """Raises ReleaseError when a candidate answered none of the queries."""
        entries = [data.catalog.get(name) for name in names]
        prices = np.array([(entry.input_price, entry.output_price) for entry in entries])
        quality = data.matrix("quality", list(names))
        silent = [n for n, column in zip(names, quality.T, strict=True) if np.isnan(column).all()]
        if silent:
            raise ReleaseError(f"candidate {silent[0]!r} has no outcomes to learn from")
        prompt, response, cost = (
            data.matrix(column, list(names))
            for column in ("prompt_tokens", "response_tokens", "cost_usd")
        )
        billed = billed_tokens(prices, prompt, response, cost)
        targets = np.stack([quality, np.log1p(billed)], axis=2)
        return cls(tuple(names), prices, prompt, billed, cost, targets)

    @property
    def answered(self) -> np.ndarray:
        """(n, L) bool."""
        return np.asarray(np.isfinite(self.targets[:, :, 0]))

    @property
    def shared(self) -> np.ndarray:
        """(n, 2L) what maps are learned from: qualities less their means over their common spread,
        log lengths standardised; a missing one is what the others did on this query."""
        blocks = []
        for number in range(2):
            block = self.targets[:, :, number] - np.nanmean(self.targets[:, :, number], axis=0)
            spread = np.nanstd(block, axis=0)
            block = block / np.maximum(spread if number else np.nanstd(block), 1e-6)
            known = np.isfinite(block)
            others = np.where(known, block, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
            blocks.append(np.where(known, block, others[:, None]))
        return np.hstack(blocks)


def billed_tokens(
    prices: np.ndarray, prompt: np.ndarray, response: np.ndarray, cost: np.ndarray
) -> np.ndarray:
    """(n, L) response tokens that the cost was charged for: hidden reasoning is paid, and takes
    time. The response tokens themselves where the price explains the cost, or is 0."""
    input_price, output_price = prices[:, 0], prices[:, 1]
    charged = cost * 1e6 - input_price * prompt
    billed = charged / np.where(output_price > 0, output_price, np.inf)
    agrees = np.isclose(billed, response, rtol=0.01, atol=1.0) | (output_price == 0)
    return np.asarray(np.where(agrees, response, np.clip(billed, 0.0, MAX_RESPONSE_TOKENS)))
