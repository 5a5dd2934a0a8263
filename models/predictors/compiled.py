"""A release's predictors compiled to score one query for all candidates in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.catalog import Catalog
from models.decision.estimates import Estimates
from models.decision.waiting import Delays
from models.encoder.inputs import QueryInputs
from models.predictors.families.contract import FeatureMap
from models.predictors.predictor import Predictor, tokens_of
from models.predictors.shrinkage import Shrinkage
from models.predictors.uncertainty import along, bonus
from models.prices import token_cost


class CompiledPredictors:
    """L predictors as stacked arrays. candidates: their names, in the catalog's order.

    shrinkage: how much of the predictions is believed; all of them where it is None.
    """

    def __init__(
        self,
        predictors: Sequence[Predictor],
        catalog: Catalog,
        shrinkage: Shrinkage | None = None,
    ) -> None:
        self.means = np.array([p.metrics["mean_quality"] for p in predictors])
        self.candidates = [p.llm for p in predictors]
        self._shrink = None if shrinkage is None else shrinkage.over(self.candidates, self.means)
        entries = [catalog.get(p.llm) for p in predictors]
        self._intercepts = np.array([p.intercepts for p in predictors]).T.ravel()
        self._stacks = _stacks(predictors)
        self._smearing = np.array([p.smearing for p in predictors])
        self._prompt = np.array([p.prompt for p in predictors])
        self._cost_offset = np.array([p.cost_offset_usd for p in predictors])
        self._sights = _sights(predictors)
        self._input_price = np.array([c.input_price for c in entries])
        self._output_price = np.array([c.output_price for c in entries])
        self._first_token = np.array([c.time_to_first_token for c in entries])
        self._speed = np.array([c.tokens_per_second for c in entries])

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of what all candidates share, and of what is theirs."""
        shared = sum(a.nbytes for stack in self._stacks for a in stack.mapped.arrays.values())
        shared += sum(sight.directions.nbytes for sight in self._sights)
        own = sum(stack.weights.nbytes for stack in self._stacks)
        return shared, own + sum(sight.inverses.nbytes for sight in self._sights)

    def estimate(self, inputs: QueryInputs, delays: Delays | None = None) -> Estimates:
        """Estimates (n, L) for n queries; delays: what traffic adds to the catalog's times."""
        count = len(self.candidates)
        raw = np.tile(self._intercepts, (len(inputs), 1))
        for stack in self._stacks:
            stack.add(inputs, raw)
        quality = np.clip(raw[:, :count], 0.0, 1.0)
        if self._shrink is not None:
            quality = self._shrink(quality)
        return self._estimates(inputs, quality, tokens_of(raw[:, count:], self._smearing), delays)

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
        delays: Delays | None,
    ) -> Estimates:
        prompt = np.maximum(self._prompt[:, 0] + self._prompt[:, 1] * inputs.tokens[:, None], 0.0)
        cost = token_cost(prompt, tokens, self._input_price, self._output_price)
        cost += self._cost_offset
        time = self._first_token + tokens / self._speed
        if delays is not None:
            time = delays.waiting + delays.slowness * time
        return Estimates(
            quality=quality,
            prompt_tokens=prompt,
            response_tokens=tokens,
            cost=np.maximum(cost, 0.0),
            time=time,
            uncertainty=self._uncertainty(inputs),
            feedback=np.zeros(tokens.shape),
        )

    def uncertainty_parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where uncertainty looks: (g, d, k); which of these is each candidate's: (L,); and every
        candidate's own A_l⁻¹: (L, k + 1, k + 1)."""
        sees = np.empty(len(self.candidates), dtype=np.int64)
        inverses = np.empty((len(sees), *self._sights[0].inverses.shape[1:]), dtype=np.float32)
        for number, sight in enumerate(self._sights):
            sees[sight.columns] = number
            inverses[sight.columns] = sight.inverses[sight.shared]
        return np.stack([sight.directions for sight in self._sights]), sees, inverses

    def _uncertainty(self, inputs: QueryInputs) -> np.ndarray:
        out = np.empty((len(inputs), len(self.candidates)), dtype=np.float32)
        for sight in self._sights:
            rows = along(inputs.embeddings, sight.directions)
            out[:, sight.columns] = bonus(sight.inverses, rows)[:, sight.shared]
        return out


@dataclass(frozen=True)
class _Stack:
    """The heads of several candidates over one map. weights: (m, c). columns: (c,) where their
    parts belong among L qualities and L lengths."""

    mapped: FeatureMap
    weights: np.ndarray
    columns: np.ndarray

    def add(self, inputs: QueryInputs, raw: np.ndarray) -> None:
        """Add these heads' part to raw (n, 2L)."""
        raw[:, self.columns] += self.mapped.combine(self.mapped.represent(inputs), self.weights)


@dataclass(frozen=True)
class _Sight:
    """Candidates whose uncertainty looks along the same directions. inverses: (k, c, c), distinct
    ones: candidates seen on the same queries share one. columns: (p,) the candidates; shared: (p,)
    each one's inverse."""

    directions: np.ndarray
    inverses: np.ndarray
    columns: np.ndarray
    shared: np.ndarray


def _stacks(predictors: Sequence[Predictor]) -> list[_Stack]:
    groups: dict[str, list[tuple[int, str]]] = {}
    for i, predictor in enumerate(predictors):
        for family in predictor.weights:
            groups.setdefault(predictor.maps.digests[family], []).append((i, family))
    stacks = []
    for members in groups.values():
        first, family = members[0]
        weights = np.concatenate([predictors[i].weights[f].T for i, f in members])
        columns = np.array([i + t * len(predictors) for i, _ in members for t in range(2)])
        used = weights.any(axis=1)  # a family may serve one target alone
        stacked = np.ascontiguousarray(weights[used].T)
        stacks.append(_Stack(predictors[first].maps.features[family], stacked, columns[used]))
    return stacks


def _sights(predictors: Sequence[Predictor]) -> list[_Sight]:
    groups: dict[bytes, list[int]] = {}
    for i, predictor in enumerate(predictors):
        groups.setdefault(predictor.maps.directions.tobytes(), []).append(i)
    sights = []
    for members in groups.values():
        distinct: dict[bytes, int] = {}
        matrices = [predictors[i].inverse_covariance for i in members]
        shared = [distinct.setdefault(m.tobytes(), len(distinct)) for m in matrices]
        firsts = [matrices[shared.index(number)] for number in range(len(distinct))]
        directions = predictors[members[0]].maps.directions
        sights.append(_Sight(directions, np.stack(firsts), np.array(members), np.array(shared)))
    return sights
