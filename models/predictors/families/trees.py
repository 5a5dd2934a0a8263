"""Decision trees as arrays: which leaf of each tree a query falls into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from models.encoder.inputs import QueryInputs
from models.errors import ReleaseError
from models.predictors.families.contract import SparseMap
from models.predictors.projection import principal_axes

# Trees look at this many principal components of the embedding, and at the form.
COMPONENTS: Final = 24


class Trees(SparseMap):
    """t trees of at most k nodes. Features: one per leaf of every tree, 1/t where the query falls.

    mean (d,), axes (d, c): the components. feature (t, k) uint8, threshold (t, k) float32: a node
    sends a query left where its feature is at most the threshold. children (t, k, 2) uint16: a
    leaf's are itself; nodes beyond a tree's own are leaves nobody reaches.
    """

    def __init__(
        self,
        mean: np.ndarray,
        axes: np.ndarray,
        feature: np.ndarray,
        threshold: np.ndarray,
        children: np.ndarray,
    ) -> None:
        self.mean, self.axes = mean, axes
        self.feature, self.threshold, self.children = feature, threshold, children
        count, nodes = feature.shape
        self._roots = np.arange(count) * nodes
        self._feature = feature.ravel().astype(np.intp)
        self._threshold = threshold.ravel()
        self._next = (children + self._roots[:, None, None]).reshape(-1).astype(np.intp)
        reached, self._depth = self._walk()
        self._leaf = np.zeros(count * nodes, dtype=np.intp)
        self._leaf[reached] = np.arange(len(reached))
        self.leaves = len(reached)

    @classmethod
    def grown(cls, trees: Sequence[Any], mean: np.ndarray, axes: np.ndarray) -> Trees:
        """From scikit-learn's fitted trees over ``looked_at``."""
        nodes = max(tree.node_count for tree in trees)
        shape = (len(trees), nodes)
        feature, threshold = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
        children = np.repeat(np.tile(np.arange(nodes), (len(trees), 1))[..., None], 2, axis=2)
        for i, tree in enumerate(trees):
            inner = np.flatnonzero(tree.children_left >= 0)
            feature[i, inner] = tree.feature[inner]
            threshold[i, inner] = tree.threshold[inner]
            children[i, inner, 0] = tree.children_left[inner]
            children[i, inner, 1] = tree.children_right[inner]
        return cls(mean, axes, feature, threshold, children.astype(np.uint16))

    def represent(self, inputs: QueryInputs) -> np.ndarray:
        """(n, t) the leaf's number, of all trees' leaves."""
        seen = looked_at(inputs, self.mean, self.axes)
        at = np.broadcast_to(self._roots, (len(seen), len(self._roots)))
        lines = np.arange(len(seen))[:, None] * seen.shape[1]
        flat = seen.ravel()
        for _ in range(self._depth):
            right = flat[lines + self._feature[at]] > self._threshold[at]
            at = self._next[2 * at + right]
        return np.asarray(self._leaf[at])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.mean,
            "axes": self.axes,
            "feature": self.feature,
            "threshold": self.threshold,
            "children": self.children,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Trees:
        return cls(**arrays)

    def _walk(self) -> tuple[np.ndarray, int]:
        """(the leaves that can be reached, in order; how deep the deepest lies)."""
        at, leaves, depth = self._roots, [], 0
        count, nodes = self.feature.shape
        if self.children.shape != (count, nodes, 2) or (self.children >= nodes).any():
            raise ReleaseError("a tree has children that are not its nodes")
        visited = 0
        while True:
            visited += len(at)
            if visited > count * nodes:  # a cycle would be walked for ever
                raise ReleaseError("a tree reaches a node more than once")
            ends = self._next[2 * at] == at
            leaves.append(at[ends])
            at = at[~ends]
            if not len(at):
                return np.sort(np.concatenate(leaves)), depth
            at = np.concatenate([self._next[2 * at], self._next[2 * at + 1]])
            depth += 1


def axes_of(inputs: QueryInputs) -> tuple[np.ndarray, np.ndarray]:
    return principal_axes(inputs.embeddings, COMPONENTS)


def looked_at(inputs: QueryInputs, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(n, c + f) float32."""
    return np.hstack([(inputs.embeddings - mean) @ axes, inputs.forms]).astype(np.float32)


def indicators(represented: np.ndarray, leaves: int) -> Any:
    """(n, leaves) sparse, 1 where the query falls."""
    from scipy.sparse import csr_array

    n, trees = represented.shape
    ends = np.arange(0, n * trees + 1, trees)
    return csr_array((np.ones(n * trees), represented.ravel(), ends), shape=(n, leaves))
