"""RouterBench's native wide table → an evaluation set.

Columns: ``sample_id``, ``prompt``, ``eval_name``, then per model ``<model>`` (quality),
``<model>|model_response`` and ``<model>|total_cost`` (USD). Read from CSV or Parquet, and from the
published pickle through an unpickler that admits nothing but pandas and NumPy constructors.
"""

from __future__ import annotations

import ast
import io
import pickle  # only for the restricted Unpickler below
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from models.catalog import Candidate, Catalog
from models.errors import EvaluationSetError
from models.evaluation_set import EvaluationSet, read_frame, validate

COST: Final = "|total_cost"
RESPONSE: Final = "|model_response"
FIXED: Final = ("sample_id", "prompt", "eval_name")
# RouterBench gives no token counts: about four characters a token of English.
CHARACTERS_PER_TOKEN: Final = 4.0
# RouterBench gives no speeds either; a catalog of one's own should.
TOKENS_PER_SECOND: Final = 60.0
TIME_TO_FIRST_TOKEN: Final = 0.5

ADMITTED: Final = {
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.internals.managers", "BlockManager"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("pandas.core.internals.blocks", "new_block"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("builtins", "slice"),  # pandas places its blocks by slices
}
# Index classes of pandas 1, which pandas 2 folded into one.
RENAMED: Final = {
    ("pandas.core.indexes.numeric", "Int64Index"),
    ("pandas.core.indexes.numeric", "Float64Index"),
}


class RestrictedUnpickler(pickle.Unpickler):
    """Builds data frames and arrays, and refuses to look anything else up."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) in RENAMED:
            return pd.Index
        if (module, name) not in ADMITTED:
            raise EvaluationSetError(
                f"the pickle asks for {module}.{name}, which is neither a pandas nor a NumPy "
                "constructor; it was not loaded"
            )
        return super().find_class(module, name)


def _latin1(text: str, encoding: str) -> bytes:
    """What old pickles call to make bytes; nothing else of codecs is admitted."""
    if encoding != "latin1":
        raise EvaluationSetError(f"the pickle asks for the codec {encoding!r}; it was not loaded")
    return text.encode("latin1")


def read_pickled_frame(path: Path) -> pd.DataFrame:
    """A pickled data frame. Raises EvaluationSetError for anything else."""
    try:
        frame = RestrictedUnpickler(io.BytesIO(path.read_bytes())).load()
    except EvaluationSetError:
        raise
    except Exception as error:  # a broken stream may raise anything
        raise EvaluationSetError(f"{path}: not a readable pickle: {error}") from error
    if not isinstance(frame, pd.DataFrame):
        raise EvaluationSetError(f"{path}: holds a {type(frame).__name__}, not a data frame")
    return frame


def read_routerbench(
    path: Path, catalog: Catalog | None = None, quarantine: Path | None = None
) -> EvaluationSet:
    """Read the wide table. catalog: prices and speeds; estimated from the costs when not given.

    Raises EvaluationSetError.
    """
    if not path.is_file():
        raise EvaluationSetError(f"{path}: no such file")
    wide = read_pickled_frame(path) if path.suffix in (".pkl", ".pickle") else read_frame(path)
    missing = [column for column in FIXED if column not in wide.columns]
    models = [c for c in wide.columns if f"{c}{COST}" in wide.columns]
    if missing or not models:
        wanted = ", ".join(missing) or f"<model> with <model>{COST}"
        raise EvaluationSetError(f"{path}: not a RouterBench table, it lacks: {wanted}")
    queries = pd.DataFrame(
        {
            "query_id": wide["sample_id"].astype(str),
            "query": wide["prompt"].map(prompt_text),
            "source": wide["eval_name"].astype(str),
        }
    )
    outcomes = pd.concat([long_form(wide, queries, str(model)) for model in models])
    outcomes = outcomes[outcomes["quality"].notna()].reset_index(drop=True)
    if catalog is None:
        catalog = Catalog(llms=tuple(estimated(str(m), outcomes) for m in models))
    return validate(queries, outcomes, catalog, name=path.stem, quarantine=quarantine)


def prompt_text(prompt: Any) -> str:
    """A prompt's text; some are stored as the printed form of a list of texts."""
    text = str(prompt)
    if text.startswith("[") and text.endswith("]"):
        try:
            parts = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
        if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
    return text


def long_form(wide: pd.DataFrame, queries: pd.DataFrame, model: str) -> pd.DataFrame:
    """One model's columns as outcomes."""
    response = wide.get(f"{model}{RESPONSE}")
    texts = response.astype(str) if response is not None else pd.Series("", index=wide.index)
    return pd.DataFrame(
        {
            "query_id": queries["query_id"],
            "llm": model,
            "quality": pd.to_numeric(wide[model], errors="coerce"),
            "prompt_tokens": np.ceil(queries["query"].str.len() / CHARACTERS_PER_TOKEN),
            "response_tokens": np.ceil(texts.str.len() / CHARACTERS_PER_TOKEN),
            "cost_usd": pd.to_numeric(wide[f"{model}{COST}"], errors="coerce"),
        }
    )


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
