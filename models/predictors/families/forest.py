"""Random forest: trees grown on all candidates' outcomes at once, leaf means of each candidate's own.

Breiman, *Random Forests*, 2001; several outputs that share the trees: Segal and Xiao, *Multivariate
Random Forests*, 2011.
"""

from __future__ import annotations

import os
from typing import ClassVar, Final

import numpy as np

from models.encoder.inputs import QueryInputs
from models.predictors.families.contract import Heads, Targets
from models.predictors.families.trees import Trees, axes_of, indicators, looked_at

TREES: Final = 100
LEAF_ROWS: Final = 10
DEEPEST: Final = 9
# Rows that a candidate's own mean is worth in a leaf.
PRIOR_LEAF_ROWS: Final = 3.0


class Forest(Trees):
    """Heads: a candidate's mean in every leaf, shrunk towards its mean over all."""

    family: ClassVar[str] = "forest"

    @classmethod
    def learn(cls, inputs: QueryInputs, shared: np.ndarray, seed: int) -> Trees:
        from sklearn.ensemble import RandomForestRegressor

        axes = axes_of(inputs)
        forest = RandomForestRegressor(
            TREES,
            max_depth=DEEPEST,
            min_samples_leaf=LEAF_ROWS,
            max_features=0.33,
            random_state=seed,
            n_jobs=os.cpu_count(),
        )
        forest.fit(looked_at(inputs, *axes), shared)
        return cls.grown([tree.tree_ for tree in forest.estimators_], *axes)

    def heads(self, represented: np.ndarray, targets: Targets) -> Heads:
        inside = indicators(represented, self.leaves).T
        sums, rows = inside @ (targets.values - targets.means), inside.sum(axis=1)[:, None]
        return Heads(sums / (rows + PRIOR_LEAF_ROWS), targets.means)
