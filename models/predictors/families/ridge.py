"""Ridge: linear in the embedding and the query's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np

from models.encoder.inputs import QueryInputs
from models.predictors.families.contract import DenseMap

# Standardised forms count this much beside the unit embedding.
FORM_SCALE: Final = 0.1


class Ridge(DenseMap):
    """Features: the embedding beside the standardised forms. mean, factor: (f,) the forms'."""

    family: ClassVar[str] = "ridge"

    def __init__(self, mean: np.ndarray, factor: np.ndarray) -> None:
        self.mean = mean
        self.factor = factor

    @classmethod
    def learn(cls, inputs: QueryInputs, shared: np.ndarray, seed: int) -> Ridge:
        return cls.over(inputs.forms)

    @classmethod
    def over(cls, forms: np.ndarray) -> Ridge:
        """With the scales of forms (n, f); one that does not vary is left out: it says nothing, and
        must not explode when it does vary."""
        mean, spread = forms.mean(axis=0, dtype=np.float64), forms.std(axis=0, dtype=np.float64)
        factor = np.where(spread < 1e-6, 0.0, FORM_SCALE / np.maximum(spread, 1e-6))
        return cls(mean.astype(np.float32), factor.astype(np.float32))

    def represent(self, inputs: QueryInputs) -> np.ndarray:
        return np.hstack([inputs.embeddings, self.scaled(inputs.forms)])

    def scaled(self, forms: np.ndarray) -> np.ndarray:
        """(n, f) standardised and small beside the embedding."""
        return np.asarray((forms - self.mean) * self.factor)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "factor": self.factor}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Ridge:
        return cls(arrays["mean"], arrays["factor"])


def ridge_features(embeddings: np.ndarray, forms: np.ndarray) -> np.ndarray:
    """(n, d + f): what a ridge fitted on these rows reads of them."""
    return np.hstack([embeddings, Ridge.over(forms).scaled(forms)])
