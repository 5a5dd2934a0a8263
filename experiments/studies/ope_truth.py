"""Do the off-policy estimates hold the truth? Logs of real outcomes, of which everything is known.

    python -m experiments.studies.ope_truth --data DIR [--data DIR ...] [--home DIR] \
        [--logs 200] [--out FILE]

Half of the training queries are trained on; the others are decided with exploration at the release's
own λ and voted on by their outcomes. How often do the 95 % intervals hold what another policy would
really have earned on such queries, how wide are they, and how far off is the estimate in the mean?
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.online.experiment import Sets, fit_offline, read_sets, stream_of
from infra.progress import progress_bar
from infra.settings import Settings
from models.data.files import read_evaluation_set
from models.decision.estimates import score
from models.decision.exploration import Exploration, probabilities
from models.learning.off_policy import LoggedVotes, evaluate_policy, resamples
from models.markdown_table import markdown_table

VOTES: Final = 1000
EPSILONS: Final = (0.05, 0.2, 0.5)


def study(sets: Sets, logs: int) -> list[dict[str, Any]]:
    order = np.random.default_rng(0).permutation(len(sets.train.queries))
    cut = len(order) // 2
    offline = fit_offline(sets, np.sort(order[:cut]))
    stream = stream_of(sets, order[cut:])
    compiled = offline.router.compiled()
    estimates = compiled.estimate(stream.inputs)
    count = len(compiled.candidates)
    wtp = offline.defaults.willingness_to_pay
    targets = {
        name: np.eye(count)[np.argmax(score(estimates, offline.defaults, wtp * factor).total, 1)]
        for name, factor in (("a third of λ", 1 / 3), ("λ", 1.0), ("three times λ", 3.0))
    }
    targets["random"] = np.full(estimates.quality.shape, 1 / count)
    totals = score(estimates, offline.defaults).total
    rows = []
    with progress_bar("logs", len(EPSILONS) * logs, "log") as advance:
        for epsilon in EPSILONS:
            explore = Exploration(kind="epsilon", epsilon=epsilon)
            chances = np.stack(
                [probabilities(t, c, explore) for t, c in zip(totals, estimates.cost, strict=True)]
            )
            found: dict[tuple[str, str], list[tuple[bool, float, float, bool]]] = {}
            for number in range(logs):
                rng = np.random.default_rng(number)
                at = rng.integers(len(stream), size=VOTES)
                drawn = chances[at].cumsum(axis=1) > rng.random((VOTES, 1))
                choice = drawn.argmax(axis=1)
                log = LoggedVotes(
                    choice,
                    chances[at, choice],
                    stream.quality[at, choice],
                    estimates.quality[at],
                )
                draws = resamples(VOTES, number)
                for name, target in targets.items():
                    true = float((target * stream.quality).sum(axis=1).mean())
                    measured = evaluate_policy(log, target[at], draws)
                    for kind in ("ips", "snips", "dr"):
                        value = getattr(measured, kind)
                        held = value.low <= true <= value.high
                        width, error = value.high - value.low, value.value - true
                        cell = (held, width, error, measured.supported)
                        found.setdefault((name, kind), []).append(cell)
                advance(1)
            for (name, kind), cells in found.items():
                held, width, error, told = np.array(cells, dtype=float).T
                rows.append(
                    {
                        "epsilon": epsilon,
                        "policy": name,
                        "estimate": kind,
                        "held": float(held.mean()),
                        "supported": float(told.mean()),
                        "width": float(width.mean()),
                        "bias": float(error.mean()),
                        "bias_error": float(error.std() / np.sqrt(logs)),
                    }
                )
    return rows


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown."""
    heads = (
        "set", "ε", "policy", "IPS: held, width, bias", "self-normalised", "doubly robust", "can tell",
    )  # fmt: skip
    lines = []
    for name, rows in found.items():
        for first in range(0, len(rows), 3):
            three = rows[first : first + 3]
            cells = [f"{r['held']:.0%}, {r['width']:.3f}, {r['bias']:+.4f}" for r in three]
            first_row = three[0]
            supported = f"{first_row['supported']:.0%}"
            lines.append(
                (name, f"{first_row['epsilon']:g}", first_row["policy"], *cells, supported)
            )
    return markdown_table(heads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ope_truth.json"))
    options = parser.parse_args()
    settings = Settings(home=options.home.resolve())
    found = {}
    for folder in options.data:
        data = read_evaluation_set(folder)
        found[data.name] = study(read_sets(data, settings, progress_bar), options.logs)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
