"""Predictors: one per candidate, embedding (and form) → expected quality, response and prompt tokens.

Each is fitted on its own candidate's outcomes alone, so a candidate comes, goes or is refitted
without touching the others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from models.errors import ReleaseError
from models.inputs import FORM_WIDTH, QueryInputs
from models.ridge import Decomposition, RidgeRegression
from models.uncertainty import inverse_covariance

FORMAT_VERSION: Final = 1
CONFIG_FILE: Final = "predictor.json"
ARRAYS_FILE: Final = "predictor.safetensors"
FILES: Final = (CONFIG_FILE, ARRAYS_FILE)

# Standardised forms count this much beside the unit embedding.
FORM_SCALE: Final = 0.1
# Rows that the prior mean of a rarely seen candidate is worth.
PRIOR_ROWS: Final = 20.0
PRIOR_QUALITY: Final = 0.5
PRIOR_LOG_TOKENS: Final = float(np.log(250.0))
MAX_RESPONSE_TOKENS: Final = 200_000.0


@dataclass(frozen=True)
class Outcomes:
    """One candidate's training rows. quality: (n,) in [0, 1]. prompt_tokens, response_tokens: (n,).
    cost_usd: (n,) USD, measured or by price."""

    quality: np.ndarray
    prompt_tokens: np.ndarray
    response_tokens: np.ndarray
    cost_usd: np.ndarray


class Predictor:
    """One candidate's predictor.

    encoder: the digest of the encoder whose embeddings it reads. input_price, output_price: USD per
    million tokens.
    Learned: quality_weights_, length_weights_ (d + f,) float32 over raw features, their intercepts;
    smearing_ (Duan's factor that turns a mean log length into a mean length); prompt_ (offset and
    slope: the candidate's own prompt tokens from the encoder's count); cost_offset_ (USD per answer
    that prices do not explain); inverse_covariance_ (d, d) float32, A_l⁻¹ over the embeddings seen;
    rows_; leave_one_out_quality_, leave_one_out_tokens_ (n,).
    """

    def __init__(self, llm: str, encoder: str, input_price: float, output_price: float) -> None:
        self.llm = llm
        self.encoder = encoder
        self.input_price = input_price
        self.output_price = output_price

    def fit(self, inputs: QueryInputs, outcomes: Outcomes) -> Predictor:
        """Learn from this candidate's training rows. Raises ReleaseError when there are none."""
        if len(inputs) == 0:
            raise ReleaseError(f"candidate {self.llm!r} has no outcomes to learn from")
        table, mean, scale = features_of(inputs.embeddings, inputs.forms)
        features, honest = Decomposition(table), inputs.honest
        quality = quality_regression().fit(features, outcomes.quality, honest)
        billed = self._billed_tokens(outcomes)
        log_tokens = np.log1p(billed)
        length = RidgeRegression(PRIOR_LOG_TOKENS, PRIOR_ROWS).fit(features, log_tokens, honest)
        smearing = np.mean(np.exp(log_tokens - length.leave_one_out_)[honest])
        self.smearing_ = float(np.clip(smearing, 0.5, 10.0))

        self.quality_weights_, self.quality_intercept_ = _over_raw(quality, mean, scale)
        self.length_weights_, self.length_intercept_ = _over_raw(length, mean, scale)
        self.prompt_ = _prompt_line(inputs.tokens, outcomes.prompt_tokens)
        by_price = self.input_price * outcomes.prompt_tokens + self.output_price * billed
        self.cost_offset_ = float(np.mean(outcomes.cost_usd - by_price / 1e6))
        self.inverse_covariance_ = inverse_covariance(inputs.embeddings)
        self.rows_ = len(inputs)
        self.metrics_ = {
            "rows": float(self.rows_),
            "mean_quality": float(outcomes.quality.mean()),
            "quality_rmse": float(np.sqrt(quality.error_)),
            "quality_rmse_of_mean": float(outcomes.quality.std()),
            "log_length_rmse": float(np.sqrt(length.error_)),
            "quality_penalty": quality.penalty_,
            "length_penalty": length.penalty_,
        }
        self.leave_one_out_quality_ = np.clip(quality.leave_one_out_, 0.0, 1.0)
        self.leave_one_out_tokens_ = _tokens(length.leave_one_out_, self.smearing_)
        return self

    def _billed_tokens(self, outcomes: Outcomes) -> np.ndarray:
        """Response tokens that the cost was charged for: hidden reasoning is paid, and takes time."""
        if self.output_price == 0:
            return outcomes.response_tokens
        for_prompt = self.input_price * outcomes.prompt_tokens / 1e6
        billed = (outcomes.cost_usd - for_prompt) * 1e6 / self.output_price
        agrees = np.isclose(billed, outcomes.response_tokens, rtol=0.01, atol=1.0)
        return np.where(agrees, outcomes.response_tokens, np.clip(billed, 0.0, MAX_RESPONSE_TOKENS))

    def predict(self, inputs: QueryInputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(quality in [0, 1], response tokens, prompt tokens), each (n,) float64."""
        features = inputs.features
        quality = features @ self.quality_weights_ + self.quality_intercept_
        log_tokens = features @ self.length_weights_ + self.length_intercept_
        prompt = np.maximum(self.prompt_[0] + self.prompt_[1] * inputs.tokens, 0.0)
        return np.clip(quality, 0.0, 1.0), _tokens(log_tokens, self.smearing_), prompt

    def save(self, folder: Path) -> None:
        """Write ``predictor.json`` and ``predictor.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            "quality_weights": self.quality_weights_,
            "length_weights": self.length_weights_,
            "inverse_covariance": self.inverse_covariance_,
        }
        save_file(arrays, folder / ARRAYS_FILE)
        config = {
            "format_version": FORMAT_VERSION,
            "family": "ridge",
            "llm": self.llm,
            "encoder": self.encoder,
            "input_price": self.input_price,
            "output_price": self.output_price,
            "quality_intercept": self.quality_intercept_,
            "length_intercept": self.length_intercept_,
            "smearing": self.smearing_,
            "prompt": list(self.prompt_),
            "cost_offset_usd": self.cost_offset_,
            "rows": self.rows_,
            "metrics": self.metrics_,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Read what ``save`` wrote. Raises ReleaseError."""
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
        if config.get("format_version") != FORMAT_VERSION or config.get("family") != "ridge":
            raise ReleaseError(
                f"{folder / CONFIG_FILE}: format {config.get('format_version')!r}, family "
                f"{config.get('family')!r}; this version reads format {FORMAT_VERSION}, ridge"
            )
        arrays = load_file(folder / ARRAYS_FILE)
        bad = sorted(name for name, array in arrays.items() if not np.isfinite(array).all())
        if bad:
            raise ReleaseError(f"{folder / ARRAYS_FILE}: {', '.join(bad)} not finite")
        predictor = cls(
            config["llm"], config["encoder"], config["input_price"], config["output_price"]
        )
        predictor.quality_weights_ = arrays["quality_weights"]
        predictor.length_weights_ = arrays["length_weights"]
        predictor.inverse_covariance_ = arrays["inverse_covariance"]
        predictor.quality_intercept_ = config["quality_intercept"]
        predictor.length_intercept_ = config["length_intercept"]
        predictor.smearing_ = config["smearing"]
        predictor.prompt_ = (config["prompt"][0], config["prompt"][1])
        predictor.cost_offset_ = config["cost_offset_usd"]
        predictor.rows_ = config["rows"]
        predictor.metrics_ = config["metrics"]
        return predictor


def quality_regression() -> RidgeRegression:
    """The unfitted model of a candidate's quality."""
    return RidgeRegression(PRIOR_QUALITY, PRIOR_ROWS)


def features_of(
    embeddings: np.ndarray, forms: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """((n, d + f) embeddings beside standardised forms, the forms' means (f,) and scales (f,))."""
    mean = forms.mean(axis=0, dtype=np.float64)
    scale = FORM_SCALE / np.maximum(forms.std(axis=0, dtype=np.float64), 1e-6)
    # A form that does not vary in training says nothing, and must not explode when it does.
    scale[forms.std(axis=0) < 1e-6] = 0.0
    return np.hstack([embeddings, (forms - mean) * scale]), mean, scale


def _over_raw(
    head: RidgeRegression, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, float]:
    """Fold the forms' standardisation into the weights: (weights over raw features, intercept)."""
    weights = head.weights_.copy()
    weights[-FORM_WIDTH:] *= scale
    intercept = head.intercept_ - float(mean @ weights[-FORM_WIDTH:])
    return weights.astype(np.float32), intercept


def _tokens(log_tokens: np.ndarray, smearing: float) -> np.ndarray:
    """Mean response tokens from mean log(1 + tokens)."""
    ceiling = np.log(MAX_RESPONSE_TOKENS)
    tokens = np.exp(np.minimum(log_tokens, ceiling)) * smearing
    return np.asarray(np.clip(tokens, 0.0, MAX_RESPONSE_TOKENS))


def _prompt_line(counted: np.ndarray, billed: np.ndarray) -> tuple[float, float]:
    """(offset, slope) of billed prompt tokens over counted ones, neither negative."""
    spread = counted - counted.mean()
    variance = float(spread @ spread)
    ratio = float(billed.sum() / max(counted.sum(), 1.0))
    slope = float(spread @ billed) / variance if variance > 0 else ratio
    offset = float(billed.mean() - slope * counted.mean())
    return (offset, slope) if slope > 0 and offset >= 0 else (0.0, ratio)
