"""The encoder of a release: the base model, tuned or as it is, exported, gated and described."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.digest import digest_json
from models.encoder.onnx import BATCH_SIZE, CARD_FILE, CONFIG_FILE, INT8, MIXED, REPORT_FILE
from models.encoder_tuning.card import model_card
from models.encoder_tuning.data import TuningData
from models.encoder_tuning.export import (
    Origin,
    export_encoder,
    quantise_encoder,
    replace_folder,
    resolved_model,
)
from models.encoder_tuning.gate import choose_graph, router_of
from models.encoder_tuning.settings import TuningSettings
from models.encoder_tuning.tunable import TunableEncoder
from models.encoder_tuning.tuning import EncoderTuning, tune_on_every_gpu, versions
from models.queries.text import MAX_TOKENS

# Training queries that the exported graphs are compared on.
PROBES: Final = 256
# What is tried beside float32.
PRECISIONS: Final = (MIXED, INT8)


def encoder_identity(data: TuningData, settings: TuningSettings, *, tune: bool) -> str:
    """What an encoder depends on; the same identity is the same encoder."""
    # Untuned, only what it reads and the queries of the gate matter.
    depends = settings.model_dump() if tune else [settings.base_model, MAX_TOKENS]
    return digest_json(
        ["tuned" if tune else "frozen", depends, data.digest, PRECISIONS, versions()]
    )


def build_encoder(
    folder: Path,
    data: TuningData,
    settings: TuningSettings,
    *,
    tune: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write an encoder folder; an interrupted tuning goes on from its last checkpoint.

    folder: where it will lie, whole or not at all; the tuning works in ``<folder>.tuning``.
    progress: called with (tuning steps done, in all). Returns the folder.
    """
    work = folder.with_name(f"{folder.name}.tuning")
    report: dict[str, Any] = {"data_digest": data.digest, "queries": len(data.queries)}
    if tune:
        sample = data.sample(settings.max_queries, settings.seed)
        tune_on_every_gpu(settings, work, sample)
        tuning = EncoderTuning(settings, work).fit(sample, progress)
        encoder = tuning.encoder
        report |= {"settings": settings.model_dump(), "tuning": asdict(tuning.report_)}
    else:
        encoder = TunableEncoder(resolved_model(settings.base_model), 0, MAX_TOKENS)
    learned = tune and tuning.report_.best_epoch > 0
    split = {"held_share": settings.held_share, "seed": settings.seed} if learned else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        full = export_encoder(
            encoder.transformer,
            encoder.tokenizer,
            Path(name) / "float32",
            encoder.max_tokens,
            Origin(settings.base_model, split),
        )
        made = _gated(full, encoder, data, report)
        replace_folder(made, folder)
    shutil.rmtree(work, ignore_errors=True)
    return folder


def _gated(full: Path, encoder: TunableEncoder, data: TuningData, report: dict[str, Any]) -> Path:
    """The folder of the smallest graph that passes the gate, with what was measured beside it.

    full: the float32 encoder folder. report: what is known so far; the gate's figures are added.
    """
    rows = np.linspace(0, len(data.queries) - 1, min(PROBES, len(data.queries))).astype(int)
    probes = [data.queries[i] for i in rows]
    reference = encoder.embed(probes, BATCH_SIZE)
    choose = router_of(reference, data.quality[rows], data.cost[rows])
    graphs = {"float32": full}
    for precision in PRECISIONS:
        graphs[precision] = quantise_encoder(full, full.with_name(precision), precision)
    chosen, figures = choose_graph(graphs, probes, reference, choose)
    made = graphs[chosen]
    report |= {"chosen": chosen, "graphs": [asdict(found) for found in figures]}
    report["tags"] = {key: value for found in figures for key, value in found.tags.items()}
    (made / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n")
    config = json.loads((made / CONFIG_FILE).read_text())
    (made / CARD_FILE).write_text(model_card(config, report))
    return made
