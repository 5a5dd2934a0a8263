"""A BERT-like model as the tuning and the export see it: tokens → unit embedding, in two halves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from models.encoder.onnx import clean_text
from models.errors import EncoderError
from models.queries.text import clip_characters, window


class PooledEncoder(nn.Module):  # type: ignore[misc]
    """A transformer whose embedding is the mean of the last hidden states over the attended tokens,
    scaled to unit length."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(n, t) ids and mask → (n, d) unit rows."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask)[0]
        return pool(hidden, attention_mask)


def pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(n, t, d) hidden states and (n, t) mask → (n, d) unit rows."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    return nn.functional.normalize(mean, dim=1)


class TunableEncoder:
    """A pretrained model with its first ``frozen_layers`` layers fixed.

    ``lower`` runs the embeddings and the fixed layers, whose output never changes and can be kept;
    ``upper`` runs the layers that learn. With frozen_layers 0 the whole model learns.

    model: a folder, or a name the Hugging Face hub knows.
    Raises EncoderError when the model cannot be read or has no stack of layers to divide.
    """

    def __init__(self, model: str | Path, frozen_layers: int, max_tokens: int) -> None:
        self.transformer, self.tokenizer = load_pretrained(model)
        # Without dropout; its plain attention is the faster one to learn with on a processor.
        self.transformer.eval().set_attn_implementation("eager")
        self.max_tokens = max_tokens
        self.backend: Tokenizer = self.tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.dimension = int(self.transformer.config.hidden_size)
        self.layers = list(_layers(self.transformer)) if frozen_layers else []
        if frozen_layers > len(self.layers):
            raise EncoderError(
                f"{model}: frozen_layers is {frozen_layers}, and there are "
                f"{len(self.layers)} layers that can be divided; use 0 to tune the whole model"
            )
        self.frozen_layers = frozen_layers
        for parameter in self.transformer.parameters():
            parameter.requires_grad = frozen_layers == 0
        for layer in self.layers[frozen_layers:]:
            for parameter in layer.parameters():
                parameter.requires_grad = True
        if frozen_layers:
            self._check_division()

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        sha = hashlib.sha256()
        for name, value in sorted(self.transformer.state_dict().items()):
            sha.update(name.encode())
            sha.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    @property
    def trained(self) -> nn.Module:
        """The part that learns."""
        if self.frozen_layers:
            return nn.ModuleList(self.layers[self.frozen_layers :])
        return self.transformer

    def tokenize(self, query: str) -> list[int]:
        """The ids that the encoder reads of a query: the same window as serving's."""
        text = clean_text(clip_characters(query, self.max_tokens))
        ids = self.backend.encode(text, add_special_tokens=False).ids
        start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        return [start, *window(ids, self.max_tokens), end]

    def lower(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids → (n, t, d) hidden states after the fixed layers and the (n, t) mask."""
        ids, mask = padded(rows)
        device = next(self.transformer.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        hidden = self.transformer.embeddings(ids)
        for layer in self.layers[: self.frozen_layers]:
            hidden = _first(layer(hidden, _additive(mask)))
        return hidden, mask

    def upper(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Hidden states after the fixed layers → (n, d) unit rows."""
        for layer in self.layers[self.frozen_layers :]:
            hidden = _first(layer(hidden, _additive(mask)))
        return pool(hidden, mask)

    def whole(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Token ids → (n, d) unit rows by the undivided model."""
        ids, mask = padded(rows)
        device = next(self.transformer.parameters()).device
        return PooledEncoder(self.transformer)(ids.to(device), mask.to(device))

    def embed(self, queries: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Queries → (n, d) float32 unit rows."""
        rows = [self.tokenize(query) for query in queries]
        order = np.argsort([len(row) for row in rows], kind="stable")
        out = np.empty((len(rows), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                out[batch] = self.whole([rows[i] for i in batch]).float().cpu().numpy()
        return out

    def _check_division(self) -> None:
        rows = [self.tokenize("one two three"), self.tokenize("four")]
        with torch.inference_mode():
            divided, whole = self.upper(*self.lower(rows)), self.whole(rows)
        if not torch.allclose(divided, whole, atol=1e-4):
            raise EncoderError(
                f"{type(self.transformer).__name__} cannot be divided after its layers; "
                "use frozen_layers 0 to tune the whole model"
            )


def load_pretrained(model: str | Path) -> tuple[Any, Any]:
    """(transformer, tokenizer). Raises EncoderError, saying what was looked for."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar of a tenth of a second, in the middle of ours
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model))
        transformer = AutoModel.from_pretrained(str(model), use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise EncoderError(
            f"base model {str(model)!r} cannot be loaded: {first} (give a folder with config.json, "
            "model.safetensors and a tokenizer, or a name that the Hugging Face hub knows)"
        ) from error
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise EncoderError(f"base model {str(model)!r} is not BERT-like: no start and end tokens")
    return transformer, tokenizer


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids → (n, t) ids and mask, int64."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def _layers(transformer: Any) -> Sequence[nn.Module]:
    stack = getattr(getattr(transformer, "encoder", None), "layer", None)
    return stack if stack is not None and hasattr(transformer, "embeddings") else ()


def _additive(mask: torch.Tensor) -> torch.Tensor:
    return (1.0 - mask[:, None, None, :].float()) * -1e9


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
