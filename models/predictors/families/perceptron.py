"""Multi-layer perceptron: a hidden layer trained on all candidates at once, a ridge head for each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np

from models.encoder.inputs import QueryInputs
from models.predictors.families.contract import DenseMap
from models.predictors.families.ridge import Ridge

HIDDEN: Final = 64
EPOCHS: Final = 8
BATCH: Final = 64


class Perceptron(DenseMap):
    """Features: relu((``Ridge``'s features) · weights + biases), (d + f, h) and (h,)."""

    family: ClassVar[str] = "mlp"

    def __init__(self, weights: np.ndarray, biases: np.ndarray, ridge: Ridge) -> None:
        self.weights = weights.astype(np.float32)
        self.biases = biases.astype(np.float32)
        self.ridge = ridge

    @classmethod
    def learn(cls, inputs: QueryInputs, shared: np.ndarray, seed: int) -> Perceptron:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        ridge = Ridge.learn(inputs, shared, seed)
        features = ridge.represent(inputs)
        middle, scale = features.mean(axis=0), max(float(features.std()), 1e-6)
        net = MLPRegressor(
            hidden_layer_sizes=(HIDDEN,),
            batch_size=min(BATCH, len(inputs)),
            max_iter=EPOCHS,
            alpha=1e-3,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs are the regularisation
            net.fit((features - middle) / scale, shared)
        weights = net.coefs_[0] / scale
        return cls(weights, net.intercepts_[0] - middle @ weights, ridge)

    def represent(self, inputs: QueryInputs) -> np.ndarray:
        hidden = self.ridge.represent(inputs) @ self.weights + self.biases
        return np.asarray(np.maximum(hidden, 0.0))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights, "biases": self.biases, **self.ridge.arrays}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Perceptron:
        return cls(arrays["weights"], arrays["biases"], Ridge.of(arrays))
