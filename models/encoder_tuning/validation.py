"""How well an encoder serves routing, measured on queries that its tuning did not read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.evaluation.measures import aiq
from models.evaluation.willingness import willingness_grid
from models.predictors.families.ridge import ridge_features
from models.predictors.ridge import Decomposition, quality_regression
from models.predictors.shrinkage import Shrinkage


@dataclass(frozen=True)
class Validation:
    """deviation_r2: share of the variance of the candidates' own deviations (who is better than his
    mean on this query, see ``shrinkage``) that is predicted: what decides who wins. auc: mean over
    the candidates. mse: mean squared error of quality. gap_closed: between mixing single candidates
    and the oracle, at mean costs."""

    deviation_r2: float
    auc: float
    mse: float
    gap_closed: float


def validate(
    embeddings: np.ndarray,
    forms: np.ndarray,
    quality: np.ndarray,
    cost: np.ndarray,
    held: np.ndarray,
) -> Validation:
    """Predictors fitted on all n rows, each held row predicted by one that did not see it.

    embeddings: (n, d). forms: (n, f). quality, cost: (n, L), NaN where there is no outcome.
    held: (n,) bool, rows that the encoder's tuning did not read.
    """
    predicted = held_predictions(embeddings, forms, quality, held)
    truth = quality[held]
    complete = np.isfinite(truth).sum(axis=0) >= 0.9 * np.isfinite(truth).sum(axis=0).max()
    whole = np.isfinite(truth[:, complete]).all(axis=1)
    p, t, c = (a[whole][:, complete] for a in (predicted, truth, cost[held]))
    means = np.nanmean(quality[:, complete], axis=0)
    own, came = deviations(p, means), deviations(t, means)
    spread = float((own**2).sum())
    scale = float(np.clip((own * came).sum() / spread, 0.0, 1.0)) if spread > 0 else 0.0
    names = [str(number) for number in range(len(means))]
    total = float((came**2).sum())
    return Validation(
        deviation_r2=1 - float(((came - scale * own) ** 2).sum()) / total if total else 0.0,
        auc=mean_auc(predicted, truth),
        mse=float(np.nanmean((predicted - truth) ** 2)),
        gap_closed=_gap_closed(
            Shrinkage.fit(names, p, t, means).over(names, means)(p),
            t,
            c,
            np.nanmean(cost[:, complete], axis=0),
        ),
    )


def deviations(quality: np.ndarray, means: np.ndarray) -> np.ndarray:
    """(n, L) each candidate's own part beyond its mean (L,) and what all share on the query."""
    beyond = quality - means
    return np.asarray(beyond - beyond.mean(axis=1, keepdims=True))


def held_predictions(
    embeddings: np.ndarray, forms: np.ndarray, quality: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """(held rows, L) leave-one-out predictions of quality; the mean where a candidate has no row."""
    predicted = np.empty((int(held.sum()), quality.shape[1]))
    shared: dict[bytes, Decomposition] = {}
    for llm in range(quality.shape[1]):
        known = np.isfinite(quality[:, llm])
        if not (known & held).any():
            predicted[:, llm] = np.nanmean(quality[:, llm]) if known.any() else 0.5
            continue
        if known.tobytes() not in shared:
            shared[known.tobytes()] = Decomposition(ridge_features(embeddings[known], forms[known]))
        rows = shared[known.tobytes()]
        fitted = quality_regression().fit(rows, quality[known, llm], held[known])
        full = np.full(len(held), float(np.nanmean(quality[:, llm])))
        full[known] = fitted.leave_one_out_
        predicted[:, llm] = full[held]
    return np.clip(predicted, 0.0, 1.0)


def mean_auc(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean over candidates of the AUC of "quality above one half"; NaN where nobody ever differs."""
    from sklearn.metrics import roc_auc_score

    areas = []
    for llm in range(truth.shape[1]):
        known = np.isfinite(truth[:, llm])
        good = truth[known, llm] > 0.5
        if 0 < good.sum() < len(good):
            areas.append(roc_auc_score(good, predicted[known, llm]))
    return float(np.mean(areas)) if areas else float("nan")


def domain_separation(embeddings: np.ndarray, domains: np.ndarray) -> dict[str, float]:
    """``within``: mean cosine of an embedding to its domain's mean direction; ``between``: mean
    cosine of the domains' directions to one another. Unknown (−1) queries are left out."""
    found = np.unique(domains[domains >= 0])
    if len(found) < 2:
        return {"within": float("nan"), "between": float("nan")}
    means = np.stack([embeddings[domains == domain].mean(axis=0) for domain in found])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    own = means[np.searchsorted(found, domains[domains >= 0])]
    cosines = means @ means.T
    return {
        "within": float((embeddings[domains >= 0] * own).sum(axis=1).mean()),
        "between": float(cosines[~np.eye(len(found), dtype=bool)].mean()),
    }


def _gap_closed(
    predicted: np.ndarray, truth: np.ndarray, cost: np.ndarray, mean_cost: np.ndarray
) -> float:
    grid, rows = willingness_grid(cost), np.arange(len(truth))

    def area(value: np.ndarray, price: np.ndarray) -> float:
        picks = np.stack([np.argmax(value - price / wtp, axis=1) for wtp in grid])
        return aiq(cost[rows, picks].mean(axis=1), truth[rows, picks].mean(axis=1), low, high)

    single = cost.mean(axis=0)
    low, high = float(single.min()), float(single.max())
    zero, oracle = aiq(single, truth.mean(axis=0), low, high), area(truth, cost)
    return (area(predicted, mean_cost) - zero) / (oracle - zero) if oracle > zero else 0.0
