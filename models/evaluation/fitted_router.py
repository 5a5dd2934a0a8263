"""What training makes of an evaluation set: one object is evaluated, calibrated and released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.catalog import Catalog
from models.data.evaluation_set import EvaluationSet
from models.decision.estimates import DecisionDefaults
from models.encoder.inputs import QueryInputs
from models.evaluation.calibration import Rows, choose_defaults
from models.predictors.compiled import CompiledPredictors
from models.predictors.fitting import NEW_MAPS, Fitted, NewMaps, fit_predictors, shrinkage_of
from models.predictors.predictor import Predictor
from models.predictors.shrinkage import Shrinkage

# Candidates that answered less than this share of what the best covered one did set no aim.
NEARLY_ALL = 0.9


@dataclass(frozen=True)
class FittedRouter:
    """A router as it was fitted.

    data: the training queries and their outcomes.
    inputs: the rows of ``data.queries``.
    fitted: a predictor per candidate, with its predictions of training queries it had not seen.
    shrinkage: how far these held true. That of some of the candidates is the part of it that is
        theirs, so a router of fewer candidates believes its predictions as this one does.
    """

    data: EvaluationSet
    inputs: QueryInputs
    fitted: tuple[Fitted, ...]
    shrinkage: Shrinkage

    @classmethod
    def fit(
        cls,
        data: EvaluationSet,
        inputs: QueryInputs,
        encoder: str,
        names: Sequence[str] | None = None,
        maps: NewMaps = NEW_MAPS,
    ) -> FittedRouter:
        """As ``fit_predictors``, with maps of its own. Raises ReleaseError."""
        fitted = fit_predictors(data, inputs, encoder, names, maps)
        return cls.of(data, inputs, fitted)

    @classmethod
    def of(cls, data: EvaluationSet, inputs: QueryInputs, fitted: Sequence[Fitted]) -> FittedRouter:
        """fitted: on ``data``."""
        return cls(data, inputs, tuple(fitted), shrinkage_of(fitted, data, inputs))

    @property
    def names(self) -> list[str]:
        return [found.predictor.llm for found in self.fitted]

    @property
    def predictors(self) -> list[Predictor]:
        return [found.predictor for found in self.fitted]

    @property
    def encoder(self) -> str:
        """The digest of the encoder that it was fitted on."""
        return self.predictors[0].encoder

    def compiled(
        self,
        names: Sequence[str] | None = None,
        catalog: Catalog | None = None,
        *,
        shrunk: bool = True,
    ) -> CompiledPredictors:
        """What estimates queries. names: candidates, all by default. catalog: whose prices and speeds
        count, the training set's by default. shrunk: whether the shrinkage is applied."""
        by_name = dict(zip(self.names, self.predictors, strict=True))
        chosen = [by_name[name] for name in (self.names if names is None else names)]
        shrinkage = self.shrinkage if shrunk else None
        return CompiledPredictors(chosen, catalog or self.data.catalog, shrinkage)

    def directions(self, names: Sequence[str]) -> int:
        """How many directions the shrinkage of these candidates keeps."""
        means = self.compiled(names).means
        return len(self.shrinkage.over(list(names), means).slopes)

    def training_rows(self) -> Rows:
        """Training rows as predicted by models that did not see them.

        Left out: queries that the encoder's tuning learned from, queries that a well-covered candidate
        did not answer, candidates that answered few queries.
        """
        names = self.names
        true_quality = self.data.matrix("quality", names)
        true_cost = self.data.matrix("cost_usd", names)
        answered = ~np.isnan(true_quality)
        wide = answered.mean(axis=0) >= NEARLY_ALL * answered.mean(axis=0).max()
        rows = answered[:, wide].all(axis=1) & self.inputs.honest
        quality = np.column_stack([found.quality for found in self.fitted])
        tokens = np.column_stack([found.tokens for found in self.fitted])
        compiled = self.compiled([name for name, w in zip(names, wide, strict=True) if w])
        shrunk = self.shrinkage.over(compiled.candidates, compiled.means)(quality[rows][:, wide])
        estimates = compiled.estimate_from(self.inputs[rows], shrunk, tokens[rows][:, wide])
        return Rows(estimates, true_quality[rows][:, wide], true_cost[rows][:, wide])

    def defaults(self) -> DecisionDefaults:
        """The decision defaults that its training rows ask for."""
        return choose_defaults(self.training_rows())
