"""What the encoder should read of a long prompt: head, tail, both, or the question itself.

    python -m experiments.studies.long_prompts --data ../shared/data/mmlu_pro

Test queries are put into long prompts (five worked examples before, a pasted document before or after,
a long system prompt before); predictors are fitted on the plain training queries. The figure is the
mean AUC of their quality predictions on the test queries.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from infra.training.encoder_store import clustering_encoder
from models.data.evaluation_set import EvaluationSet, comparable
from models.data.files import read_evaluation_set
from models.encoder.onnx import OnnxEncoder
from models.encoder_tuning.gate import fitted_quality
from models.encoder_tuning.validation import mean_auc

RESULTS: Final = Path(__file__).parents[2] / "benchmarks" / "results" / "long_prompts.json"
TRAIN, TEST = 1500, 400
SYSTEM: Final = (
    "You are a careful assistant of a large company. Answer briefly and politely, never guess, cite "
    "the section you rely on, use metric units, and refuse what the policy below forbids. "
) * 12
# (share of the window that reads the head); the question first is another text, read from its head.
WINDOWS: Final = {
    "head": 1.0,
    "head 50 %, tail 50 %": 0.5,
    "head 25 %, tail 75 %": 0.25,
    "tail": 0.0,
}
QUESTION_FIRST: Final = "last message first"


def prompts(data: EvaluationSet, rows: np.ndarray, kind: str, seed: int) -> list[tuple[str, str]]:
    """(what comes before or after, the question) of each row; ``|`` marks where the question goes."""
    rng = np.random.default_rng(seed)
    queries, sources = data.queries["query"].tolist(), data.queries["source"].to_numpy()
    # The same examples for every query of a subject, as in a five-shot exam.
    shots = {s: rng.choice(np.flatnonzero(sources == s), 5) for s in np.unique(sources)}
    document = " ".join(queries[i] for i in rng.choice(len(queries), 12))
    around: dict[str, Callable[[int], str]] = {
        "plain": lambda i: "|",
        "five examples before": lambda i: (
            "\n\n".join(f"{queries[j]}\nAnswer: (A)" for j in shots[sources[i]]) + "\n\n|\nAnswer:"
        ),
        "document before": lambda i: f"{document}\n\n|",
        "document after": lambda i: f"|\n\n{document}",
        "system prompt before": lambda i: f"{SYSTEM}\n\n|",
    }
    return [(around[kind](i), queries[i]) for i in rows]


KINDS: Final = (
    "plain",
    "five examples before",
    "document before",
    "document after",
    "system prompt before",
)


def read_tokens(
    encoder: OnnxEncoder, texts: Sequence[str], head: float, max_tokens: int
) -> list[list[int]]:
    room = max_tokens - 2
    rows = []
    for text in texts:
        ids = encoder.tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > room:
            first = int(room * head)
            ids = ids[:first] + ids[len(ids) - (room - first) :]
        rows.append([encoder.start_id, *ids, encoder.end_id])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Path.home() / ".mixllm")
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[128])
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    train, test = read_evaluation_set(asked.data).split()
    names, test, _ = comparable(train, test)
    encoder = OnnxEncoder(clustering_encoder(asked.home))
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.permutation(len(p.queries))[:n]) for p, n in ((train, TRAIN), (test, TEST))]
    quality = [p.matrix("quality", names)[r] for p, r in zip((train, test), rows, strict=True)]
    table = []
    for size in asked.max_tokens:
        for window in (*WINDOWS, QUESTION_FIRST):
            embed = embedder(encoder, window, size)
            plain = fitted_quality(embed(prompts(train, rows[0], "plain", 0)), quality[0])
            for kind in KINDS:
                embedded = embed(prompts(test, rows[1], kind, 1))
                auc = mean_auc(np.column_stack([m.predict(embedded) for m in plain]), quality[1])
                table.append({"tokens": size, "reads": window, "prompt": kind, "auc": auc})
                print(f"{size} {window:22} {kind:22} AUC {auc:.4f}", flush=True)
    record = {"data": asked.data.name, "train": TRAIN, "test": TEST, "rows": table}
    asked.out.write_text(json.dumps(record, indent=1) + "\n")


def embedder(
    encoder: OnnxEncoder, window: str, size: int
) -> Callable[[list[tuple[str, str]]], np.ndarray]:
    def embed(parts: list[tuple[str, str]]) -> np.ndarray:
        if window == QUESTION_FIRST:
            texts = [f"{question}\n{around.replace('|', '', 1)}" for around, question in parts]
        else:
            texts = [around.replace("|", question, 1) for around, question in parts]
        read = read_tokens(encoder, texts, WINDOWS.get(window, 1.0), size)
        return np.concatenate([encoder.encode_tokens([row]) for row in read])

    return embed


if __name__ == "__main__":
    main()
