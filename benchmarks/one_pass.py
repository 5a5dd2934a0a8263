"""One query scored for all candidates: milliseconds beyond the encoder, memory per candidate.

    python -m benchmarks.one_pass --data ../shared/data/mmlu_pro

Predictors are fitted on the set's training queries; more candidates than it has are its own with noise
on their heads and on what they were seen on, so that nothing is shared but the maps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from infra.settings import read_settings
from infra.training import steps as training_steps
from infra.training.encoder_store import prepared_encoder
from models.catalog import Catalog
from models.data.files import read_evaluation_set
from models.decision.decide import DecisionContext, decide
from models.decision.estimates import DecisionDefaults
from models.encoder.inputs import QueryInputs
from models.predictors.compiled import CompiledPredictors
from models.predictors.fitting import fit_predictors
from models.predictors.predictor import Predictor

RESULTS: Final = Path(__file__).parent / "results" / "one_pass.json"
COUNTS: Final = (17, 100, 1_000)
ROUNDS: Final = 5
QUERIES: Final = 200
NOISE: Final = 0.05


def copies(predictors: list[Predictor], count: int) -> list[Predictor]:
    """That many distinct candidates."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        found = predictors[number % len(predictors)]
        weights = {
            family: (w * rng.normal(1.0, NOISE, w.shape)).astype(w.dtype)
            for family, w in found.weights.items()
        }
        sight = found.inverse_covariance * np.float32(rng.normal(1.0, NOISE))
        made.append(
            dataclasses.replace(
                found, llm=f"{found.llm} {number}", weights=weights, inverse_covariance=sight
            )
        )
    return made


def timed(predictors: list[Predictor], catalog: Catalog, inputs: QueryInputs) -> dict[str, Any]:
    entries = {entry.name: entry for entry in catalog.llms}
    llms = tuple(
        entries[p.llm.rsplit(" ", 1)[0]].model_copy(update={"name": p.llm}) for p in predictors
    )
    compiled = CompiledPredictors(predictors, Catalog(llms=llms))
    shared, own = compiled.memory
    defaults = DecisionDefaults(willingness_to_pay=0.01)
    everyone = np.ones(len(predictors), dtype=bool)
    singles = [inputs[np.array([i])] for i in range(QUERIES)]
    parts: dict[str, list[float]] = {"predict": [], "decide": [], "both": []}
    for _ in range(ROUNDS):
        spent = np.empty((QUERIES, 2))
        for i, one in enumerate(singles):
            start = time.perf_counter()
            estimates = compiled.estimate(one)
            middle = time.perf_counter()
            decide(compiled.candidates, estimates, defaults, DecisionContext(allowed=everyone))
            spent[i] = middle - start, time.perf_counter() - middle
        for name, column in (("predict", spent[:, 0]), ("decide", spent[:, 1])):
            parts[name].append(float(1000 * np.median(column)))
        parts["both"].append(float(1000 * np.median(spent.sum(axis=1))))
    return {
        "milliseconds": parts,
        "kib_per_candidate": own / len(predictors) / 1024,
        "maps_mib": shared / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    settings = read_settings()
    train, _ = read_evaluation_set(asked.data).split()
    folder = prepared_encoder(settings.home)
    inputs = training_steps.embed(train.queries["query"].tolist(), folder, settings)
    fitted = [found.predictor for found in fit_predictors(train, inputs, "benchmark")]
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "data": train.name,
        "rounds": ROUNDS,
        "candidates": {
            str(count): timed(copies(fitted, count), train.catalog, inputs) for count in COUNTS
        },
    }
    asked.out.write_text(json.dumps(results, indent=1) + "\n")
    for count, row in results["candidates"].items():  # type: ignore[attr-defined]
        spread = {k: f"{min(v):.3f} to {max(v):.3f}" for k, v in row["milliseconds"].items()}
        print(f"{count} candidates: {spread} ms, {row['kib_per_candidate']:.0f} KiB each")


if __name__ == "__main__":
    main()
