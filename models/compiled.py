"""A release's predictors compiled to score one query for all candidates in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.catalog import Catalog
from models.decision import Estimates
from models.inputs import QueryInputs
from models.predictors import MAX_RESPONSE_TOKENS, Predictor
from models.shrinkage import shrink
from models.uncertainty import bonus


class CompiledPredictors:
    """L predictors as stacked arrays. candidates: their names, in the catalog's order.

    deviation_scale: how much of a candidate's own deviation is believed.
    """

    def __init__(
        self, predictors: Sequence[Predictor], catalog: Catalog, deviation_scale: float = 1.0
    ) -> None:
        self.deviation_scale = deviation_scale
        self.means = np.array([p.metrics_["mean_quality"] for p in predictors])
        self.candidates = [p.llm for p in predictors]
        entries = [catalog.get(p.llm) for p in predictors]
        self._weights = np.stack(
            [p.quality_weights_ for p in predictors] + [p.length_weights_ for p in predictors],
            axis=1,
        ).astype(np.float32)
        self._intercepts = np.array(
            [p.quality_intercept_ for p in predictors] + [p.length_intercept_ for p in predictors],
            dtype=np.float64,
        )
        self._smearing = np.array([p.smearing_ for p in predictors])
        self._prompt = np.array([p.prompt_ for p in predictors])
        self._cost_offset = np.array([p.cost_offset_ for p in predictors])
        # Candidates seen on the same queries share one matrix: it is multiplied once.
        distinct: dict[bytes, int] = {}
        self._shared = np.array(
            [
                distinct.setdefault(p.inverse_covariance_.tobytes(), len(distinct))
                for p in predictors
            ]
        )
        firsts = [int(np.argmax(self._shared == i)) for i in range(len(distinct))]
        self._inverses = np.stack([predictors[i].inverse_covariance_ for i in firsts])
        self._input_price = np.array([c.input_price for c in entries]) / 1e6
        self._output_price = np.array([c.output_price for c in entries]) / 1e6
        self._first_token = np.array([c.time_to_first_token for c in entries])
        self._speed = np.array([c.tokens_per_second for c in entries])

    def estimate(self, inputs: QueryInputs, waiting: np.ndarray | None = None) -> Estimates:
        """Estimates (n, L) for n queries; waiting: (L,) seconds, 0 unless given."""
        count = len(self.candidates)
        raw = inputs.features @ self._weights + self._intercepts
        ceiling = np.log(MAX_RESPONSE_TOKENS)
        tokens = np.exp(np.minimum(raw[:, count:], ceiling)) * self._smearing
        quality = shrink(np.clip(raw[:, :count], 0.0, 1.0), self.means, self.deviation_scale)
        return self._estimates(inputs, quality, np.clip(tokens, 0.0, MAX_RESPONSE_TOKENS), waiting)

    def estimate_from(
        self, inputs: QueryInputs, quality: np.ndarray, response_tokens: np.ndarray
    ) -> Estimates:
        """Estimates with quality and response tokens (n, L) predicted by somebody else."""
        return self._estimates(inputs, quality, response_tokens, None)

    def _estimates(
        self,
        inputs: QueryInputs,
        quality: np.ndarray,
        tokens: np.ndarray,
        waiting: np.ndarray | None,
    ) -> Estimates:
        prompt = np.maximum(self._prompt[:, 0] + self._prompt[:, 1] * inputs.tokens[:, None], 0.0)
        cost = self._input_price * prompt + self._output_price * tokens + self._cost_offset
        time = self._first_token + tokens / self._speed
        if waiting is not None:
            time = time + waiting
        return Estimates(
            quality=quality,
            prompt_tokens=prompt,
            response_tokens=tokens,
            cost=np.maximum(cost, 0.0),
            time=time,
            uncertainty=bonus(self._inverses, inputs.embeddings)[:, self._shared],
        )
