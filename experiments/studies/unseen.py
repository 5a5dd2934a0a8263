"""Which score finds queries of a subject that was not trained on.

    python -m experiments.studies.unseen --data ../shared/data/mmlu_pro

Each of the sources is left out of the training queries in turn; the figure is the AUROC between the test
queries of that source and the test queries of the others, by the untuned encoder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score

from infra.training.encoder_store import prepared_encoder
from models.data.files import read_evaluation_set
from models.domains.unseen import UnseenScore
from models.encoder.cache import EmbeddingCache
from models.encoder.onnx import OnnxEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Path.home() / ".mixllm")
    asked = parser.parse_args()
    train, test = read_evaluation_set(asked.data).split()
    cache = EmbeddingCache(asked.home / "embeddings", OnnxEncoder(prepared_encoder(asked.home), 2))
    parts = [
        (cache.encode(p.queries["query"].tolist()), p.queries["source"].to_numpy())
        for p in (train, test)
    ]
    (known, origin), (asked_for, sources) = parts
    table: dict[str, list[float]] = {}
    for source in np.unique(sources):
        seen = known[origin != source]
        score = UnseenScore().fit(seen)
        centres = KMeans(20, n_init=4, random_state=0).fit(seen).cluster_centers_
        middle, spread = seen.mean(axis=0), np.linalg.pinv(np.cov(seen.T) + 1e-3 * np.eye(384))
        away = asked_for - middle
        scores = {
            "256 prototypes": score.score(asked_for),
            "20 domains": np.linalg.norm(asked_for[:, None] - centres, axis=2).min(axis=1),
            "Mahalanobis": np.einsum("nd,de,ne->n", away, spread, away),
            "nearest training query": 1 - (asked_for @ seen.T).max(axis=1),
            "tenth nearest": 1 - np.partition(asked_for @ seen.T, -10, axis=1)[:, -10],
        }
        for name, found in scores.items():
            table.setdefault(name, []).append(roc_auc_score(sources == source, found))
        flagged = score.score(asked_for) > 1
        table.setdefault("flagged, of the source left out", []).append(
            flagged[sources == source].mean()
        )
        table.setdefault("flagged, of the others", []).append(flagged[sources != source].mean())
    print("| score |", " | ".join(np.unique(sources)), "| mean |")
    for name, row in table.items():
        print(f"| {name} |", " | ".join(f"{v:.2f}" for v in row), f"| {np.mean(row):.3f} |")


if __name__ == "__main__":
    main()
