"""Gradient boosting: boosted trees' leaves as features, a ridge head per candidate.

He et al., *Practical Lessons from Predicting Clicks on Ads at Facebook*, ADKDD 2014. What is boosted are
the outcomes' leading principal components, so that the trees are shared.
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from models.encoder.inputs import QueryInputs
from models.predictors.families.contract import Heads, Targets, ridge_heads
from models.predictors.families.trees import Trees, axes_of, indicators, looked_at

COMPONENTS: Final = 4
ROUNDS: Final = 25
LEAVES: Final = 8


class Boosting(Trees):
    """Heads: ridge over the leaves' indicators."""

    family: ClassVar[str] = "boosting"

    @classmethod
    def learn(cls, inputs: QueryInputs, shared: np.ndarray, seed: int) -> Trees:
        from sklearn.ensemble import GradientBoostingRegressor

        axes = axes_of(inputs)
        seen = looked_at(inputs, *axes)
        left, sizes, _ = np.linalg.svd(shared - shared.mean(axis=0), full_matrices=False)
        grown = []
        for component in range(min(COMPONENTS, len(sizes))):
            boosted = GradientBoostingRegressor(
                n_estimators=ROUNDS,
                max_leaf_nodes=LEAVES,
                min_samples_leaf=min(20, max(1, len(inputs) // 20)),
                max_features=0.33,
                subsample=0.7 if len(inputs) >= 20 else 1.0,
                random_state=seed + component,
            )
            boosted.fit(seen, left[:, component] * sizes[component])
            grown += [tree.tree_ for tree in boosted.estimators_[:, 0]]
        return cls.grown(grown, *axes)

    def heads(self, represented: np.ndarray, targets: Targets) -> Heads:
        scale = np.sqrt(represented.shape[1])
        heads = ridge_heads(indicators(represented, self.leaves).toarray() / scale, targets)
        return Heads(heads.weights * scale, heads.intercepts)
