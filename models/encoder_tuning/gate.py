"""The gate of an exported encoder: the smallest graph that embeds and decides as the model does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.encoder.onnx import GRAPH_FILE, OnnxEncoder
from models.errors import EncoderError
from models.evaluation.willingness import willingness_grid
from models.predictors.ridge import Decomposition, RidgeRegression, quality_regression

# A graph passes with this mean cosine to the model's own embeddings, and this share of its choices.
# Predictors are fitted on the graph's own embeddings, so what it costs is less than this shows.
LEAST_COSINE: Final = 0.99
LEAST_AGREEMENT: Final = 0.9
# One query of this many tokens is timed, this many times.
TIMED_TOKENS: Final = 64
TIMED_RUNS: Final = 30


@dataclass(frozen=True)
class GraphFigures:
    """One graph against the model. cosine: mean over the probe queries; least_cosine: the least.
    agreement: share of probe queries with the same choice. milliseconds: median of one query of 64
    tokens on one thread."""

    precision: str
    cosine: float
    least_cosine: float
    agreement: float
    milliseconds: float
    megabytes: float

    @property
    def passed(self) -> bool:
        return self.cosine >= LEAST_COSINE and self.agreement >= LEAST_AGREEMENT

    @property
    def tags(self) -> dict[str, str]:
        """As an MLflow version's tags."""
        shown = {key: f"{value:.4g}" for key, value in asdict(self).items() if key != "precision"}
        return {f"{self.precision}.{key}": value for key, value in shown.items()}


def choose_graph(
    graphs: dict[str, Path],
    probes: Sequence[str],
    reference: np.ndarray,
    choose: Callable[[np.ndarray], np.ndarray],
) -> tuple[str, list[GraphFigures]]:
    """(the smallest graph that passes, every graph's figures).

    Not the fastest measured: the same inputs must give the same encoder, whatever else the machine
    was doing; on a CPU the smaller graph is the faster one (the figures tell).

    graphs: precision → encoder folder. probes: queries. reference: (n, d) their embeddings by the
    model itself. choose: embeddings (n, d) → whom a router chooses (n,).
    Raises EncoderError when none passes.
    """
    wanted = choose(reference)
    figures = []
    for precision, folder in graphs.items():
        encoder = OnnxEncoder(folder)
        embeddings = encoder.encode(probes)
        cosines = np.sum(embeddings * reference, axis=1)
        figures.append(
            GraphFigures(
                precision=precision,
                cosine=float(cosines.mean()),
                least_cosine=float(cosines.min()),
                agreement=float(np.mean(choose(embeddings) == wanted)),
                milliseconds=_milliseconds(encoder),
                megabytes=(folder / GRAPH_FILE).stat().st_size / 1e6,
            )
        )
    passed = [found for found in figures if found.passed]
    if not passed:
        raise EncoderError(
            f"no exported graph embeds as the model does: {'; '.join(map(str, figures))} "
            f"(needed: cosine {LEAST_COSINE}, agreement {LEAST_AGREEMENT})"
        )
    return min(passed, key=lambda found: found.megabytes).precision, figures


def router_of(
    embeddings: np.ndarray, quality: np.ndarray, cost: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """A plain router over these rows: embeddings (n, d) → chosen candidates (n,).

    quality, cost: (n, L), NaN where there is no outcome; a candidate without any is never chosen.
    """
    known = np.flatnonzero(np.isfinite(quality).any(axis=0))
    fitted = fitted_quality(embeddings, quality[:, known])
    grid = willingness_grid(cost[:, known])
    price = np.nanmean(cost[:, known], axis=0) / grid[len(grid) // 2]

    def choose(asked: np.ndarray) -> np.ndarray:
        predicted = np.column_stack([model.predict(asked) for model in fitted])
        return np.asarray(known[np.argmax(predicted - price, axis=1)])

    return choose


def fitted_quality(embeddings: np.ndarray, quality: np.ndarray) -> list[RidgeRegression]:
    """One model of quality per column; every column needs an outcome."""
    fitted = []
    for column in quality.T:
        rows = np.isfinite(column)
        fitted.append(quality_regression().fit(Decomposition(embeddings[rows]), column[rows]))
    return fitted


def _milliseconds(encoder: OnnxEncoder) -> float:
    row = [encoder.start_id, *[1000] * (TIMED_TOKENS - 2), encoder.end_id]
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        encoder.encode_tokens([row])
        times.append(time.perf_counter() - start)
    return float(1000 * np.median(times))
