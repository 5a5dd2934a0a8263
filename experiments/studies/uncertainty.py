"""Does uncertainty tell where predictions err? Few directions against all of the embedding's.

    python -m experiments.studies.uncertainty --data ../shared/data/mmlu_pro

Each candidate is fitted on samples of its training rows, of several sizes. Prints the rank
correlation, over candidates, sizes and unseen queries, of the bonus with how far the prediction lies
from that of a fit on all rows: what more outcomes would have changed is what a bonus is for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from scipy.stats import spearmanr

from infra.settings import read_settings
from infra.training import steps as training_steps
from infra.training.encoder_store import prepared_encoder
from models.data.files import read_evaluation_set
from models.predictors.fitting import fit_predictors
from models.predictors.predictor import shared_maps
from models.predictors.projection import leading_directions
from models.predictors.uncertainty import along, bonus, inverse_covariance

SIZES: Final = (30, 100, 300, 1_000)
DIRECTIONS: Final = (8, 16, 32, 64, 384)
SAMPLES: Final = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    settings = read_settings()
    train, test = read_evaluation_set(parser.parse_args().data).split()
    folder = prepared_encoder(settings.home)
    inputs, unseen = (
        training_steps.embed(part.queries["query"].tolist(), folder, settings)
        for part in (train, test)
    )
    whole = fit_predictors(train, inputs, "benchmark")
    maps = shared_maps(found.predictor for found in whole)
    settled = [found.predictor.predict(unseen)[0] for found in whole]
    looks = {k: leading_directions(inputs.embeddings, k) for k in DIRECTIONS}
    bonuses: dict[int, list[np.ndarray]] = {k: [] for k in DIRECTIONS}
    changed, sizes = [], []
    for size in (s for s in SIZES if s < len(train.queries)):
        for sample in range(SAMPLES):
            rows = np.zeros(len(train.queries), dtype=bool)
            rows[np.random.default_rng(sample).permutation(len(rows))[:size]] = True
            few = train.where(rows)
            answered = set(few.outcomes["llm"])
            names = [found.predictor.llm for found in whole if found.predictor.llm in answered]
            fits = fit_predictors(few, inputs[rows], "benchmark", names, maps=maps)
            for found in fits:
                place = [w.predictor.llm for w in whole].index(found.predictor.llm)
                moved = np.abs(found.predictor.predict(unseen)[0] - settled[place])
                changed.append(moved)
                sizes.append(np.full(len(moved), size))
            for k, directions in looks.items():
                seen = along(inputs[rows].embeddings, directions)
                got = bonus(inverse_covariance(seen)[None], along(unseen.embeddings, directions))
                bonuses[k] += [got[:, 0]] * len(fits)
    error, level = np.concatenate(changed), np.concatenate(sizes)
    print("directions | over all sizes | within a size, mean")
    for k in DIRECTIONS:
        told = np.concatenate(bonuses[k])
        within = [
            spearmanr(told[level == s], error[level == s]).statistic for s in np.unique(level)
        ]
        print(f"{k} | {spearmanr(told, error).statistic:.3f} | {np.mean(within):.3f}", flush=True)


if __name__ == "__main__":
    main()
