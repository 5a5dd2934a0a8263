"""Probe queries: a loaded release must embed and choose as it did when built."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

from models.decision.estimates import DecisionDefaults, score
from models.encoder.inputs import QueryInputs
from models.encoder.onnx import OnnxEncoder
from models.predictors.compiled import CompiledPredictors
from models.queries.form import query_forms

PROBES: Final = 16
MOST_PROBES: Final = 256
PROBE_FILES: Final = ("probes.json", "probes.safetensors")
# A loaded release must embed its probes this alike, and choose alike on this share of them. Another
# kernel rounds otherwise, which int8 makes visible (0.998 seen); another encoder is far below.
PROBE_COSINE: Final = 0.99
PROBE_AGREEMENT: Final = 0.95


def save_probes(
    root: Path, compiled: CompiledPredictors, defaults: DecisionDefaults, queries: Sequence[str]
) -> None:
    encoder, folder = OnnxEncoder(root / "encoder"), root / "probes"
    embeddings = encoder.encode(queries)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"embeddings": embeddings}, folder / PROBE_FILES[1])
    llms = probe_choices(compiled, defaults, encoder, queries, embeddings)
    probes = {"queries": list(queries), "llms": llms}
    (folder / PROBE_FILES[0]).write_text(json.dumps(probes, ensure_ascii=True, indent=1) + "\n")


def probe_choices(
    compiled: CompiledPredictors,
    defaults: DecisionDefaults,
    encoder: OnnxEncoder,
    queries: Sequence[str],
    embeddings: np.ndarray,
) -> list[str]:
    """Whom the defaults choose for each query, in one batch."""
    tokens = np.array([encoder.tokenize(query).count for query in queries])
    estimates = compiled.estimate(QueryInputs(embeddings, query_forms(queries), tokens))
    picks = np.argmax(score(estimates, defaults).total, axis=1)
    return [compiled.candidates[i] for i in picks]
