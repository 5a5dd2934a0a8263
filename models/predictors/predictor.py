"""Predictors: one per candidate, query → expected quality, response and prompt tokens.

Each has its own heads over feature maps that all share (``models.predictors.families``), so a candidate
comes, goes or is refitted without touching the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

from models.encoder.inputs import QueryInputs
from models.errors import ReleaseError
from models.files.release_files import read_arrays, read_json, reading
from models.predictors.families import FAMILIES
from models.predictors.families.contract import FeatureMap

FORMAT_VERSION: Final = 2
CONFIG_FILE: Final = "predictor.json"
ARRAYS_FILE: Final = "predictor.safetensors"
FILES: Final = (CONFIG_FILE, ARRAYS_FILE)
TARGETS: Final = ("quality", "length")
MAX_RESPONSE_TOKENS: Final = 200_000.0


@dataclass(frozen=True)
class SharedMaps:
    """What the predictors of one training share. features: family → map. directions: (d, k), where
    uncertainty looks (``models.predictors.uncertainty``)."""

    features: Mapping[str, FeatureMap]
    directions: np.ndarray

    @cached_property
    def digests(self) -> dict[str, str]:
        """Family → its map's digest."""
        return {family: found.digest for family, found in self.features.items()}


@dataclass(frozen=True)
class Predictor:
    """One candidate's fitted predictor; made by ``models.predictors.fitting``.

    encoder: the digest of the encoder whose embeddings it reads. input_price, output_price: USD per
    million tokens. maps: those of the families it uses. weights: family → (m, 2), for quality and for
    log(1 + response tokens). intercepts: (2,). smearing: Duan's factor that turns a mean log length
    into a mean length. prompt: (offset, slope), its prompt tokens from the encoder's count.
    cost_offset_usd: USD per answer that prices do not explain. inverse_covariance: (k + 1, k + 1),
    A_l⁻¹. recipe: target → the families whose mean it is. metrics: what its fit says of it.
    """

    llm: str
    encoder: str
    input_price: float
    output_price: float
    maps: SharedMaps
    weights: Mapping[str, np.ndarray]
    intercepts: tuple[float, float]
    smearing: float
    prompt: tuple[float, float]
    cost_offset_usd: float
    inverse_covariance: np.ndarray
    recipe: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, float]

    def predict(self, inputs: QueryInputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(quality in [0, 1], response tokens, prompt tokens), each (n,) float64."""
        raw = np.tile(np.array(self.intercepts), (len(inputs), 1))
        for family, weights in self.weights.items():
            found = self.maps.features[family]
            raw += found.combine(found.represent(inputs), weights)
        prompt = np.maximum(self.prompt[0] + self.prompt[1] * inputs.tokens, 0.0)
        return np.clip(raw[:, 0], 0.0, 1.0), tokens_of(raw[:, 1], self.smearing), prompt

    def save(self, folder: Path) -> None:
        """Write ``predictor.json`` and ``predictor.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"weights.{family}": found for family, found in self.weights.items()}
        for family in self.weights:
            for name, array in self.maps.features[family].arrays.items():
                arrays[f"map.{family}.{name}"] = np.ascontiguousarray(array)
        arrays["directions"] = self.maps.directions
        arrays["inverse_covariance"] = self.inverse_covariance
        save_file(arrays, folder / ARRAYS_FILE)
        config = {name: getattr(self, name) for name in _PLAIN}
        config = {"format_version": FORMAT_VERSION, "families": [*self.weights], **config}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Read what ``save`` wrote. Raises ReleaseError."""
        with reading(str(folder)):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> Predictor:
        config = read_json(folder / CONFIG_FILE)
        if config.pop("format_version", None) != FORMAT_VERSION:
            raise ReleaseError(
                f"{folder / CONFIG_FILE}: not of format {FORMAT_VERSION}, the one this version reads: "
                "train the release again"
            )
        arrays = read_arrays(folder / ARRAYS_FILE)
        families = config.pop("families")
        strange = sorted(set(families) - set(FAMILIES))
        if strange:
            raise ReleaseError(f"{folder / CONFIG_FILE}: unknown family {', '.join(strange)}")
        maps = {
            family: FAMILIES[family].of(_under(arrays, f"map.{family}.")) for family in families
        }
        return cls(
            **config,
            maps=SharedMaps(maps, arrays["directions"]),
            weights={family: arrays[f"weights.{family}"] for family in families},
            inverse_covariance=arrays["inverse_covariance"],
        )


def shared_maps(predictors: Iterable[Predictor]) -> SharedMaps:
    """Every family's map that the predictors use; the first one's where they differ."""
    features: dict[str, FeatureMap] = {}
    for predictor in predictors:
        features = {**predictor.maps.features, **features}
    return SharedMaps(features, predictor.maps.directions)


_PLAIN: Final = (
    "llm",
    "encoder",
    "input_price",
    "output_price",
    "intercepts",
    "smearing",
    "prompt",
    "cost_offset_usd",
    "recipe",
    "metrics",
)


def tokens_of(log_tokens: np.ndarray, smearing: float | np.ndarray) -> np.ndarray:
    """Mean response tokens from mean log(1 + tokens)."""
    tokens = np.exp(np.minimum(log_tokens, np.log(MAX_RESPONSE_TOKENS))) * smearing
    return np.asarray(np.clip(tokens, 0.0, MAX_RESPONSE_TOKENS))


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
