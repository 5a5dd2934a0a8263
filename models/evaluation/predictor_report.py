"""How far each predictor can be trusted: its error and calibration on unseen queries, and what to do.

The paper's first experiment. A predictor is flagged where it is worse than chance allows for as many
queries as there are, so each candidate has thresholds of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from models import escape
from models.data.evaluation_set import EvaluationSet
from models.encoder.inputs import QueryInputs
from models.markdown_table import markdown_table
from models.predictors.fitting import Fitted
from models.predictors.outcome_table import billed_tokens
from models.predictors.predictor import Predictor

BINS: Final = 10
# Beyond chance, this much is still no reason to do anything.
TOLERATED_CALIBRATION: Final = 0.02
TOLERATED_LENGTH: Final = 1.25
CHANCE: Final = 0.99
CHANCE_DRAWS: Final = 200
DEVIATIONS: Final = 3.0
# Fewer queries than this say nothing, of a source or of all.
LEAST_QUERIES: Final = 20
FEW_ROWS: Final = 500


@dataclass(frozen=True)
class PredictorReport:
    """One candidate on n unseen queries that it answered. skill: share of the variance of quality
    that is predicted, skill_threshold: below it the mean would do as well. auc: of "quality above one
    half", None where it never differs. calibration_error: mean gap between predicted and true
    quality over tenths of the predictions; its threshold. length_ratio: mean predicted over mean true
    response tokens; length_thresholds: between which it may lie. length_skill: of log length.
    reliability: a row per tenth, (mean predicted, mean true, queries). flags: what is wrong; advice:
    what to do."""

    llm: str
    training_rows: int
    queries: int
    skill: float
    skill_threshold: float
    auc: float | None
    calibration_error: float
    calibration_threshold: float
    length_skill: float
    length_ratio: float
    length_thresholds: tuple[float, float]
    reliability: list[tuple[float, float, int]] = field(default_factory=list)
    flags: tuple[str, ...] = ()
    advice: str = ""

    @property
    def row(self) -> dict[str, Any]:
        """Its line in a table."""
        told = asdict(self)
        del told["reliability"], told["length_thresholds"]
        return {**told, "flags": "; ".join(self.flags)}


def predictor_reports(
    fitted: Sequence[Fitted], train: EvaluationSet, test: EvaluationSet, inputs: QueryInputs
) -> list[PredictorReport]:
    """A report per candidate that answered any test query. inputs: the rows of ``test.queries``."""
    predictors = [fit.predictor for fit in fitted]
    names = [predictor.llm for predictor in predictors]
    quality, tokens = test.matrix("quality", names), test.matrix("response_tokens", names)
    cost, prompt = test.matrix("cost_usd", names), test.matrix("prompt_tokens", names)
    sources = test.queries["source"].to_numpy()
    reports = []
    for i, predictor in enumerate(predictors):
        known = np.isfinite(quality[:, i])
        if not known.any():
            continue
        predicted, length, _ = predictor.predict(inputs[known])
        prices = np.array([[predictor.input_price, predictor.output_price]])
        columns = (values[known, i][:, None] for values in (prompt, tokens, cost))
        billed = billed_tokens(prices, *columns)[:, 0]
        answers = UnseenAnswers(predicted, quality[known, i], length, billed, sources[known])
        reports.append(report_of(predictor, answers, _training_counts(train, predictor.llm)))
    return reports


@dataclass(frozen=True)
class UnseenAnswers:
    """A candidate's answers to n unseen queries, as predicted and as they came.

    predicted, quality: (n,).
    length, billed: (n,) response tokens, predicted and true.
    sources: (n,) of the queries.
    """

    predicted: np.ndarray
    quality: np.ndarray
    length: np.ndarray
    billed: np.ndarray
    sources: np.ndarray


def report_of(
    predictor: Predictor, answers: UnseenAnswers, counts: dict[str, int]
) -> PredictorReport:
    """counts: source → training queries that the candidate answered."""
    predicted, truth = answers.predicted, answers.quality
    length, billed = answers.length, answers.billed
    n = len(truth)
    losses = (predicted - truth) ** 2
    plain = (truth - predictor.metrics["mean_quality"]) ** 2
    variance = max(float(plain.mean()), 1e-12)
    skill = 1 - float(losses.mean()) / variance
    skill_threshold = -2 * float((losses - plain).std()) / n**0.5 / variance
    reliability = _reliability(predicted, truth)
    error = _calibration_error(reliability)
    allowed = _by_chance(predicted) + TOLERATED_CALIBRATION
    ratio = float(length.mean() / max(billed.mean(), 1e-9))
    slack = DEVIATIONS * float((billed - length).std()) / n**0.5 / max(float(billed.mean()), 1e-9)
    within = (1 / (TOLERATED_LENGTH + slack), TOLERATED_LENGTH + slack)
    flags = []
    if skill < skill_threshold:
        flags.append("predicts quality worse than its mean does")
    if error > allowed:
        flags.append("quality not calibrated")
    if not within[0] <= ratio <= within[1]:
        flags.append(f"response length {'under' if ratio < 1 else 'over'}estimated")
    if n < LEAST_QUERIES:
        flags.clear()
    rows = int(predictor.metrics["rows"])
    return PredictorReport(
        llm=predictor.llm,
        training_rows=rows,
        queries=n,
        skill=skill,
        skill_threshold=skill_threshold,
        auc=_auc(predicted, truth),
        calibration_error=error,
        calibration_threshold=allowed,
        length_skill=_length_skill(length, billed),
        length_ratio=ratio,
        length_thresholds=within,
        reliability=reliability,
        flags=tuple(flags),
        advice=_advice(rows, predicted - truth, answers.sources, counts) if flags else "",
    )


def flags_of(reports: Sequence[PredictorReport]) -> dict[str, str]:
    """Candidate → its flags and what to do, of those that have any."""
    return {r.llm: f"{'; '.join(r.flags)}. {r.advice}" for r in reports if r.flags}


def report_text(reports: Sequence[PredictorReport]) -> str:
    """The reports as Markdown."""
    heads = (
        "LLM", "training rows", "unseen queries", "skill", "AUC", "calibration error",
        "length skill", "length ratio", "flags",
    )  # fmt: skip
    rows = [
        (
            escape.markdown(r.llm),
            r.training_rows,
            r.queries,
            f"{r.skill:.3f}",
            "–" if r.auc is None else f"{r.auc:.3f}",
            f"{r.calibration_error:.3f} (≤ {r.calibration_threshold:.3f})",
            f"{r.length_skill:.3f}",
            f"{r.length_ratio:.2f}",
            escape.markdown("; ".join(r.flags)) or "–",
        )
        for r in reports
    ]
    lines = [
        markdown_table(heads, rows),
        "",
        *(
            f"- **{escape.markdown(llm)}**: {escape.markdown(flags)}"
            for llm, flags in flags_of(reports).items()
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def plot_reports(reports: Sequence[PredictorReport], path: Path) -> None:
    """Reliability of every candidate, the flagged ones in red. path: .png or .svg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(5, len(reports))
    down = -(-len(reports) // across)
    figure = Figure(figsize=(2.6 * across, 2.5 * down), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, report in zip(grid, reports, strict=False):
        predicted, true, count = np.array(report.reliability).T
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--")
        colour = "C3" if report.flags else "C0"
        axes.scatter(predicted, true, s=4 + 60 * count / count.max(), color=colour, alpha=0.8)
        axes.set_title(f"{escape.label(report.llm)}\nskill {report.skill:.2f}", fontsize=7)
    for axes in grid[len(reports) :]:
        axes.set_visible(False)
    figure.supxlabel("predicted quality", fontsize=9)
    figure.supylabel("true quality on unseen queries", fontsize=9)
    figure.savefig(path, dpi=130)


def _reliability(predicted: np.ndarray, truth: np.ndarray) -> list[tuple[float, float, int]]:
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(BINS, len(truth)))
    return [(float(predicted[p].mean()), float(truth[p].mean()), len(p)) for p in parts]


def _calibration_error(reliability: Sequence[tuple[float, float, int]]) -> float:
    gaps = np.array([abs(predicted - true) for predicted, true, _ in reliability])
    return float(np.average(gaps, weights=[count for *_, count in reliability]))


def _by_chance(predicted: np.ndarray) -> float:
    """The calibration error that perfect predictions of right or wrong stay below."""
    rng = np.random.default_rng(0)
    drawn = [
        _calibration_error(_reliability(predicted, rng.random(len(predicted)) < predicted))
        for _ in range(CHANCE_DRAWS)
    ]
    return float(np.quantile(drawn, CHANCE))


def _auc(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    good = truth > 0.5
    return float(roc_auc_score(good, predicted)) if 0 < good.sum() < len(good) else None


def _length_skill(length: np.ndarray, billed: np.ndarray) -> float:
    logs = np.log1p(billed)
    residual = logs - np.log1p(length)  # a mean length is above the length of the mean logarithm
    return 1 - float(residual.var()) / max(float(logs.var()), 1e-12)


def _advice(rows: int, errors: np.ndarray, sources: np.ndarray, counts: dict[str, int]) -> str:
    worst = []
    for source in np.unique(sources):
        own = errors[sources == source]
        if len(own) >= LEAST_QUERIES:
            deviations = abs(own.mean()) / max(float(own.std()) / len(own) ** 0.5, 1e-9)
            worst.append((deviations, abs(float(own.mean())), str(source)))
    worst = sorted((w for w in worst if w[0] > DEVIATIONS), reverse=True)[:3]
    where = ", ".join(
        f"{source} (off by {gap:.2f}, {counts.get(source, 0)} training queries)"
        for _, gap, source in worst
    )
    few = f"only {rows} training rows: " if rows < FEW_ROWS else ""
    if where:
        return f"{few}gather outcomes of {where}, then refit it"
    return f"{few}gather more outcomes of all kinds, then refit it"


def _training_counts(train: EvaluationSet, llm: str) -> dict[str, int]:
    answered = train.outcomes.loc[train.outcomes["llm"] == llm, "query_id"]
    mine = train.queries[train.queries["query_id"].isin(answered)]
    return {str(source): int(count) for source, count in mine["source"].value_counts().items()}
