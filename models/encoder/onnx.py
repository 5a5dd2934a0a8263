"""The encoder at run time: query text → unit embedding, by ONNX Runtime. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from models.digest import digest_file, digest_json
from models.encoder.onnx_graph import check_graph
from models.encoder.split import TuningSplit
from models.errors import EncoderError
from models.files.release_files import check_file, read_bytes, read_json
from models.queries.text import MAX_TOKENS, clip_characters, window

FORMAT_VERSION: Final = 1
GRAPH_FILE: Final = "encoder.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"
CONFIG_FILE: Final = "encoder.json"
FILES: Final = (GRAPH_FILE, TOKENIZER_FILE, CONFIG_FILE)
# What its build measured, for people and for programs; no part of what it computes.
CARD_FILE: Final = "README.md"
REPORT_FILE: Final = "encoder-report.json"
INT8: Final = "int8"
MIXED: Final = "int8-mixed"
BATCH_SIZE: Final = 32
MOST_DIMENSIONS: Final = 16_384
MOST_TOKENS: Final = 131_072
MOST_IDS: Final = 2**31 - 1
# Regular expressions of published tokenizers; any other may be made to take for ever.
KNOWN_PATTERNS: Final = {" {2,}", r"\s+"}


@dataclass(frozen=True)
class TokenizedQuery:
    """ids: what the encoder reads, start and end tokens included. count: tokens of the whole query
    (in proportion, where it is too long to tokenise whole)."""

    ids: list[int]
    count: float


class OnnxEncoder:
    """A sentence encoder whose graph ends in unit embeddings (pooling and norm inside).

    folder: holds ``encoder.onnx`` (inputs input_ids and attention_mask, (n, t) int64; output
    (n, d) float32 unit rows), ``tokenizer.json`` and ``encoder.json``.
    threads: ONNX Runtime's threads for one call, or for an int8 graph, calls side by side.
    split: which queries its tuning learned from; None where it was not tuned.
    Raises EncoderError when a file is missing or the graph is not of this form.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.folder = folder
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise EncoderError(f"encoder folder {folder} lacks {', '.join(missing)}")
        for name in FILES:
            check_file(folder / name)
        config = read_json(folder / CONFIG_FILE)
        if config.get("format_version") != FORMAT_VERSION:
            raise EncoderError(
                f"{folder / CONFIG_FILE}: format_version is {config.get('format_version')!r}, "
                f"this version of MixLLM reads {FORMAT_VERSION}"
            )
        self.dimension = whole_number(config, "dimension", 1, MOST_DIMENSIONS)
        self.max_tokens = whole_number(config, "max_tokens", 2, MOST_TOKENS, MAX_TOKENS)
        tuned = config.get("tuned")
        self.split = TuningSplit(tuned["held_share"], tuned["seed"]) if tuned else None
        # An int8 graph takes the range of its activations over the whole batch, so that an embedding
        # would depend on its neighbours: one query at a time, and so many queries side by side.
        alone = str(config.get("precision")).startswith(INT8)
        self.batch_size, self.workers = (1, threads) if alone else (BATCH_SIZE, 1)
        self.start_id = whole_number(config, "start_id", 0, MOST_IDS)
        self.end_id = whole_number(config, "end_id", 0, MOST_IDS)
        self.tokenizer = read_tokenizer(folder / TOKENIZER_FILE)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1 if alone else threads
        options.inter_op_num_threads = 1
        # Spinning threads burn the cores that the request path needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = read_bytes(folder / GRAPH_FILE)
        check_graph(graph)
        self.session = ort.InferenceSession(
            graph,
            options,
            providers=["CPUExecutionProvider"],
            # On a CPU the fused form is slower than its parts: 7.4 and 5.9 ms for a query.
            disabled_optimizers=["SkipLayerNormFusion"],
        )

    def tokenize(self, query: str) -> TokenizedQuery:
        """What the encoder reads of a query, and how long the query is."""
        clipped = clip_characters(query, self.max_tokens)
        text = clean_text(clipped)
        # The fast form leaves out the offsets, which nobody reads.
        ids = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return TokenizedQuery(
            ids=[self.start_id, *window(ids, self.max_tokens), self.end_id],
            count=len(ids) * len(query) / max(len(clipped), 1),
        )

    def encode_tokens(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Token ids → embeddings (n, d) float32, unit rows."""
        width = max(len(row) for row in rows)
        input_ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        (out,) = self.session.run(None, {"input_ids": input_ids, "attention_mask": mask})
        return np.asarray(out, dtype=np.float32)

    def encode(
        self,
        queries: Sequence[str],
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Queries → embeddings (n, d) float32, unit rows.

        Queries of like length share a batch, so little is padded; progress: called with the number
        of queries done after each batch.
        """
        if not queries:
            return np.zeros((0, self.dimension), dtype=np.float32)
        batch_size = batch_size or self.batch_size
        rows = [self.tokenize(query).ids for query in queries]
        order = np.argsort([len(row) for row in rows], kind="stable")
        embeddings = np.empty((len(rows), self.dimension), dtype=np.float32)
        batches = [order[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        with ThreadPoolExecutor(self.workers) as pool:
            encoded = pool.map(lambda batch: self.encode_tokens([rows[i] for i in batch]), batches)
            for batch, found in zip(batches, encoded, strict=True):
                embeddings[batch] = found
                if progress is not None:
                    progress(len(batch))
        return embeddings


def whole_number(
    config: dict[str, Any], key: str, least: int, most: int, default: int | None = None
) -> int:
    """A whole number of ``encoder.json``. Raises EncoderError."""
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise EncoderError(
            f"{CONFIG_FILE}: {key} is {str(value)[:40]}, not a whole number from {least} to {most}"
        )
    return value


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer without regular expressions, which could take for ever. Raises ReleaseError."""
    text = read_bytes(path).decode()
    for pattern in patterns(read_json(path)):
        if pattern not in KNOWN_PATTERNS:
            raise EncoderError(f"{path}: has the regular expression {pattern[:80]!r}")
    return Tokenizer.from_str(text)


def patterns(part: Any) -> Iterator[str]:
    """Every regular expression in a tokenizer's parts; vocabularies hold none."""
    waiting = [part]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("Regex"), str) and len(part) == 1:
                yield part["Regex"]
            waiting += [value for key, value in part.items() if key not in ("vocab", "merges")]
        elif isinstance(part, list):
            waiting += part


def clean_text(text: str) -> str:
    """Text without lone surrogates, which have no UTF-8 form; the tokenizer needs one."""
    return text.encode("utf-8", "replace").decode("utf-8")


def encoder_digest(folder: Path) -> str:
    """The encoder's identity: one digest over its files."""
    return digest_json({name: digest_file(folder / name) for name in FILES})
