"""Shrinkage against the winner's curse.

Among many candidates the highest prediction is often the luckiest. The predictions of all candidates on
many queries vary along a few directions that hold true (how hard a query is; who is good at mathematics)
and along many that are noise. So each principal direction is scaled by how much of it held true on
training rows that the predictors had not seen: the diagonal form, in principal coordinates, of Breiman
and Friedman, *Predicting Multivariate Responses in Multiple Linear Regression*, 1997.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

from models.errors import ReleaseError
from models.files.release_files import read_arrays, read_json, reading

FORMAT_VERSION: Final = 1
CONFIG_FILE: Final = "shrinkage.json"
ARRAYS_FILE: Final = "shrinkage.safetensors"
FILES: Final = (CONFIG_FILE, ARRAYS_FILE)
# A direction that varies less than this share of the first says nothing.
NEGLIGIBLE: Final = 1e-9


@dataclass(frozen=True)
class Shrinkage:
    """What was learned of L candidates. spread (L, L): mean products of their predictions beyond their
    means; truth (L, L): of those with what came. That is enough for any of them, so that a release
    without one of the candidates shrinks as if it had never been there."""

    candidates: tuple[str, ...]
    spread: np.ndarray
    truth: np.ndarray

    @classmethod
    def fit(
        cls, candidates: Sequence[str], predicted: np.ndarray, truth: np.ndarray, means: np.ndarray
    ) -> Shrinkage:
        """predicted, truth: (n, L) quality, by models that had not seen the row, and what came, NaN
        where a candidate did not answer. means: (L,)."""
        x, y = predicted - means, truth - means
        known = np.isfinite(y)
        products = x.T @ np.where(known, y, 0.0) / np.maximum(known.sum(axis=0), 1)
        return cls(tuple(candidates), x.T @ x / len(x), products)

    def over(self, candidates: Sequence[str], means: np.ndarray) -> Shrinker:
        """For these candidates, of mean quality (L,); those it does not know stay as predicted."""
        places = {name: i for i, name in enumerate(self.candidates)}
        known = np.array([i for i, name in enumerate(candidates) if name in places], dtype=int)
        rows = [places[candidates[i]] for i in known]
        if not rows:
            return Shrinker(means, known, np.zeros((0, 0)), np.zeros(0))
        spread, truth = (m[np.ix_(rows, rows)] for m in (self.spread, self.truth))
        variances, directions = np.linalg.eigh(spread)
        held = np.einsum("lk,lm,mk->k", directions, truth, directions)
        real = variances > NEGLIGIBLE * max(float(variances[-1]), 1e-300)
        slopes = np.where(real, np.clip(held / np.where(real, variances, 1.0), 0.0, 1.0), 0.0)
        return Shrinker(means, known, directions[:, slopes > 0], slopes[slopes > 0])

    def save(self, folder: Path) -> None:
        """Write ``shrinkage.json`` and ``shrinkage.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"spread": self.spread, "truth": self.truth}, folder / ARRAYS_FILE)
        config = {"format_version": FORMAT_VERSION, "candidates": list(self.candidates)}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Shrinkage:
        """Read what ``save`` wrote. Raises ReleaseError."""
        with reading(str(folder)):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> Shrinkage:
        config = read_json(folder / CONFIG_FILE)
        if config.get("format_version") != FORMAT_VERSION:
            raise ReleaseError(
                f"{folder / CONFIG_FILE}: format {config.get('format_version')!r}; this version reads "
                f"{FORMAT_VERSION}"
            )
        arrays = read_arrays(folder / ARRAYS_FILE)
        shape = (len(config["candidates"]),) * 2
        for name in ("spread", "truth"):
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise ReleaseError(f"{folder / ARRAYS_FILE}: {name} is not {shape} finite numbers")
        return cls(tuple(config["candidates"]), arrays["spread"], arrays["truth"])


@dataclass(frozen=True)
class Shrinker:
    """means: (L,). known: (p,) the candidates that are shrunk. directions: (p, r), orthonormal;
    slopes: (r,), how much of each is believed."""

    means: np.ndarray
    known: np.ndarray
    directions: np.ndarray
    slopes: np.ndarray

    def __call__(self, quality: np.ndarray) -> np.ndarray:
        """Predicted quality (n, L) shrunk, in [0, 1]."""
        out = quality.copy()
        means = self.means[self.known]
        beyond = quality[:, self.known] - means
        out[:, self.known] = means + (beyond @ self.directions * self.slopes) @ self.directions.T
        return np.asarray(np.clip(out, 0.0, 1.0))
