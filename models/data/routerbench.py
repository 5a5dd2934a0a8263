"""RouterBench's native wide table → an evaluation set.

Columns: ``sample_id``, ``prompt``, ``eval_name``, then per model ``<model>`` (quality),
``<model>|model_response`` and ``<model>|total_cost`` (USD). Read from CSV, Parquet or JSON Lines.
RouterBench is published as a pickle, which is not read: unpickling runs what the file says.
"""

from __future__ import annotations

import ast
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from models.catalog import Candidate, Catalog
from models.data import cells
from models.data.evaluation_set import EvaluationSet
from models.data.tables.raw_table import RawTable
from models.data.tables.read import read_table_file
from models.data.validation import CheckedTables, checked, require
from models.errors import EvaluationSetError

PICKLES: Final = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".npy", ".npz")
COST: Final = "|total_cost"
RESPONSE: Final = "|model_response"
FIXED: Final = ("sample_id", "prompt", "eval_name")
# RouterBench gives no token counts: about four characters a token of English.
CHARACTERS_PER_TOKEN: Final = 4.0
# RouterBench gives no speeds either; a catalog of one's own should.
TOKENS_PER_SECOND: Final = 60.0
TIME_TO_FIRST_TOKEN: Final = 0.5
CONVERSION: Final = (
    'python -c "import sys, pandas; pandas.read_pickle(sys.argv[1]).to_parquet(sys.argv[2])"'
)
# A longer "list" is text; parsing it would take time and memory.
MOST_PRINTED: Final = 1 << 20


def read_routerbench(
    path: Path, catalog: Catalog | None = None, quarantine: Path | None = None
) -> EvaluationSet:
    """Read the wide table. catalog: prices and speeds; estimated from the costs when not given.

    Raises EvaluationSetError.
    """
    refuse_pickle(path)
    wide = read_table_file(path)
    missing = [column for column in FIXED if column not in wide.columns]
    models = [c for c in wide.columns if f"{c}{COST}" in wide.columns]
    if missing or not models:
        wanted = ", ".join(missing) or f"<model> with <model>{COST}"
        raise EvaluationSetError(f"{path}: not a RouterBench table, it lacks: {wanted}")
    for column in FIXED:
        require(wide, [column])
    queries = RawTable(
        wide.file,
        wide.unit,
        wide.places,
        {
            "query_id": wide.columns["sample_id"],
            "query": [prompt_text(prompt) for prompt in wide.columns["prompt"]],
            "source": wide.columns["eval_name"],
        },
        wide.bad,
        dict(zip(("query_id", "query", "source"), FIXED, strict=True)),
    )
    outcomes, silent = long_form(wide, queries, models)
    names = [name for name in models if name not in silent] if catalog is None else catalog.names
    clean = checked(queries, outcomes, names, path.stem, quarantine)
    if catalog is None:
        catalog = Catalog(llms=tuple(estimated_all(path, names, clean)))
    notes = [f"{name}: no quality in any row, so it was left out" for name in silent]
    return clean.priced(catalog, path.stem, notes)


def refuse_pickle(path: Path) -> None:
    """Raises EvaluationSetError for a pickle, with the command that converts it."""
    if path.suffix not in PICKLES or not path.is_file():
        return
    source, out = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".parquet")))
    raise EvaluationSetError(
        f"{path}: pickles are not read, because unpickling runs whatever the file says. If you trust "
        f"where it comes from, convert it:\n  {CONVERSION} {source} {out}\n"
        f"then: mixllm ingest {out}"
    )


def prompt_text(prompt: Any) -> Any:
    """A prompt's text; some are stored as the printed form of a list of texts, or as a list."""
    if not isinstance(prompt, str) or len(prompt) > MOST_PRINTED:
        return prompt
    text = prompt.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            parts = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return prompt
        if isinstance(parts, list) and parts and all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
    return prompt


def long_form(
    wide: RawTable, queries: RawTable, models: Sequence[str]
) -> tuple[RawTable, list[str]]:
    """(the models' columns as outcomes, models without any). A cell without quality is no outcome."""
    index: list[int] = []
    llms: list[str] = []
    columns: dict[str, list[Any]] = {
        name: [] for name in ("quality", "response_tokens", "cost_usd")
    }
    silent = []
    for model in models:
        quality, cost = (column_of(wide, name) for name in (model, f"{model}{COST}"))
        responses = column_of(wide, f"{model}{RESPONSE}")
        here = [i for i in range(len(wide)) if not cells.is_missing(quality[i])]
        if not here:
            silent.append(model)
        index += here
        llms += [model] * len(here)
        columns["quality"] += [quality[i] for i in here]
        columns["cost_usd"] += [cost[i] for i in here]
        columns["response_tokens"] += [tokens_of(responses[i]) for i in here]
    prompts = [tokens_of(text) for text in queries.columns["query"]]
    ids = queries.columns["query_id"]
    names: dict[str, Sequence[str]] = {
        "query_id": FIXED[0],
        "quality": llms,
        "cost_usd": [f"{llm}{COST}" for llm in llms],
    }
    outcomes = RawTable(
        wide.file,
        wide.unit,
        [wide.places[i] for i in index],
        {
            "query_id": [ids[i] for i in index],
            "llm": llms,
            "quality": columns["quality"],
            "prompt_tokens": [prompts[i] for i in index],
            "response_tokens": columns["response_tokens"],
            "cost_usd": columns["cost_usd"],
        },
        (),
        names,
    )
    return outcomes, silent


def column_of(wide: RawTable, name: str) -> Any:
    found = wide.columns.get(name)
    return [None] * len(wide) if found is None else found


def tokens_of(text: Any) -> float:
    """About how many tokens a text has."""
    characters = 0 if text is None else len(text if isinstance(text, str) else str(text))
    return float(math.ceil(characters / CHARACTERS_PER_TOKEN))


def estimated_all(path: Path, names: Sequence[str], clean: CheckedTables) -> list[Candidate]:
    """A catalog entry a model. Raises EvaluationSetError for models without any cost."""
    costs = clean.outcomes.groupby("llm")["cost_usd"].count()
    unpriced = [name for name in names if not costs.get(name, 0)]
    if unpriced:
        columns = ", ".join(f"{name}{COST}" for name in unpriced)
        raise EvaluationSetError(
            f"{path}: no cost of {', '.join(unpriced)} (empty: {columns}), so the price cannot be "
            "estimated; give prices of every LLM in a catalog: --catalog FILE"
        )
    return [estimated(name, clean.outcomes) for name in names]


def estimated(model: str, outcomes: pd.DataFrame) -> Candidate:
    """Prices (USD per million tokens) that explain a model's costs best, neither negative."""
    from scipy.optimize import nnls

    rows = outcomes[(outcomes["llm"] == model) & outcomes["cost_usd"].notna()]
    tokens = rows[["prompt_tokens", "response_tokens"]].to_numpy(np.float64)
    prices, _ = nnls(tokens, rows["cost_usd"].to_numpy(np.float64) * 1e6)
    return Candidate(
        name=model,
        input_price=float(prices[0]),
        output_price=float(prices[1]),
        tokens_per_second=TOKENS_PER_SECOND,
        time_to_first_token=TIME_TO_FIRST_TOKEN,
    )
