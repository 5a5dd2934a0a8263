"""Fitting predictors: shared maps, a head per candidate, recipes chosen on rows not learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.data.evaluation_set import EvaluationSet
from models.encoder.inputs import QueryInputs
from models.predictors.families import DEFAULT_FAMILIES, FAMILIES
from models.predictors.families.contract import Heads, Targets
from models.predictors.outcome_table import PRIORS, OutcomeTable
from models.predictors.predictor import TARGETS, Predictor, SharedMaps, tokens_of
from models.predictors.projection import leading_directions
from models.predictors.recipe import Recipe, choose_recipe
from models.predictors.shrinkage import Shrinkage
from models.predictors.uncertainty import DIRECTIONS, along, inverse_covariance
from models.prices import token_cost

FOLDS: Final = 5
SEED: Final = 0
Progress = Callable[[int], None] | None


@dataclass(frozen=True)
class Fitted:
    """A predictor, and what it is judged by: predictions of all training queries by models that had
    not seen them. quality, tokens: (n,)."""

    predictor: Predictor
    quality: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class NewMaps:
    """Maps to be learned from the rows at hand.

    progress: called with 1 for each of ``steps``.
    """

    families: Sequence[str] = DEFAULT_FAMILIES
    progress: Progress = None


NEW_MAPS: Final = NewMaps()


def fit_predictors(
    data: EvaluationSet,
    inputs: QueryInputs,
    encoder: str,
    names: Sequence[str] | None = None,
    maps: SharedMaps | NewMaps = NEW_MAPS,
) -> list[Fitted]:
    """Fit predictors on the queries that each candidate answered.

    inputs: the rows of ``data.queries``.
    encoder: the digest of the encoder that embedded them.
    names: candidates, all by default.
    maps: those of a release, to which heads alone are fitted, or new ones.
    Raises ReleaseError when a candidate answered none.
    """
    table = OutcomeTable.of(data, data.candidates if names is None else names)
    fitting = _Fitting(inputs, table, encoder, maps)
    unseen, final = fitting.unseen(), fitting.maps_of(np.arange(len(inputs)))
    heads = fitting.heads(final, np.arange(len(inputs)))
    return [_fitted(i, fitting, unseen[i], final, heads[i]) for i in range(len(table.names))]


def shrinkage_of(fitted: Sequence[Fitted], data: EvaluationSet, inputs: QueryInputs) -> Shrinkage:
    """How far the predictions held true on the training queries. fitted: on ``data``."""
    names = [found.predictor.llm for found in fitted]
    rows = inputs.honest
    predicted = np.column_stack([found.quality for found in fitted])[rows]
    means = np.array([found.predictor.metrics["mean_quality"] for found in fitted])
    return Shrinkage.fit(names, predicted, data.matrix("quality", names)[rows], means)


def steps(families: Sequence[str] = DEFAULT_FAMILIES) -> int:
    """How often ``fit_predictors`` calls its progress."""
    return (FOLDS + 1) * len(families)


def learn_maps(inputs: QueryInputs, shared: np.ndarray, families: Sequence[str]) -> SharedMaps:
    """The maps of these rows. shared: (n, t) all candidates' standardised outcomes."""
    return SharedMaps(
        {family: FAMILIES[family].learn(inputs, shared, SEED) for family in families},
        leading_directions(inputs.embeddings, DIRECTIONS),
    )


# family → (n, 2) for one candidate, or its head
Unseen = dict[str, np.ndarray]
HeadsOf = dict[str, Heads]


@dataclass(frozen=True)
class _Fitting:
    inputs: QueryInputs
    table: OutcomeTable
    encoder: str
    maps: SharedMaps | NewMaps

    def maps_of(self, rows: np.ndarray) -> SharedMaps:
        if isinstance(self.maps, SharedMaps):
            return self.maps
        return learn_maps(self.inputs[rows], self.table.shared[rows], self.maps.families)

    def unseen(self) -> list[Unseen]:
        """Per candidate: every row as predicted by models fitted on the other folds."""
        n, count = len(self.inputs), len(self.table.names)
        fold = np.random.default_rng(SEED).permutation(n) % FOLDS
        families = self.maps.families if isinstance(self.maps, NewMaps) else self.maps.features
        found = [{f: np.tile(PRIORS, (n, 1)).astype(float) for f in families} for _ in range(count)]
        for number in range(FOLDS):
            held, rows = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            if not len(held) or not len(rows):
                continue
            maps = self.maps_of(rows)
            heads = self.heads(maps, rows)
            for family, mapped in maps.features.items():
                represented = mapped.represent(self.inputs[held])
                weights = np.hstack([heads[i][family].weights for i in range(count)])
                predicted = mapped.combine(represented, weights)
                for i in range(count):
                    part = predicted[:, 2 * i : 2 * i + 2] + heads[i][family].intercepts
                    found[i][family][held] = part
        return found

    def heads(self, maps: SharedMaps, rows: np.ndarray) -> list[HeadsOf]:
        """Per candidate and family: the head fitted on those of the rows that it answered."""
        heads: list[HeadsOf] = [{} for _ in self.table.names]
        for family, mapped in maps.features.items():
            represented = mapped.represent(self.inputs[rows])
            for alike in self._answered_alike(rows):
                known = self.table.answered[rows, alike[0]]
                values = self.table.targets[rows][known][:, alike].reshape(-1, 2 * len(alike))
                judged = self.inputs[rows[known]].honest
                targets = Targets(values, np.tile(PRIORS, len(alike)), judged)
                fitted = mapped.heads(represented[known], targets)
                for place, i in enumerate(alike):
                    own = slice(2 * place, 2 * place + 2)
                    heads[i][family] = Heads(fitted.weights[:, own], fitted.intercepts[own])
            if isinstance(self.maps, NewMaps) and self.maps.progress is not None:
                self.maps.progress(1)
        return heads

    def _answered_alike(self, rows: np.ndarray) -> Iterator[list[int]]:
        """Candidates by which of the rows they answered: one decomposition serves all of a group."""
        groups: dict[bytes, list[int]] = {}
        for i, column in enumerate(self.table.answered[rows].T):
            groups.setdefault(column.tobytes(), []).append(i)
        yield from groups.values()


def _fitted(i: int, fitting: _Fitting, unseen: Unseen, maps: SharedMaps, heads: HeadsOf) -> Fitted:
    """Candidate i's predictor: the families' heads mixed and calibrated by its recipes."""
    table = fitting.table
    known = table.answered[:, i]
    inputs, targets = fitting.inputs[known], table.targets[known, i]
    judged = known & fitting.inputs.honest
    judged = judged if judged.any() else known
    recipes = [
        choose_recipe(
            {family: found[:, t] for family, found in unseen.items()},
            table.targets[:, i, t],
            judged,
            # Maps that were learned from the same queries flatter the families that learn most.
            alone=isinstance(fitting.maps, NewMaps),
        )
        for t in range(len(TARGETS))
    ]
    used = [f for f in heads if any(f in recipe.families for recipe in recipes)]
    residual = (table.targets[:, i, 1] - recipes[1].predicted)[judged]
    smearing = float(np.clip(np.mean(np.exp(residual)), 0.5, 10.0))
    prompt, cost = table.prompt_tokens[known, i], table.cost_usd[known, i]
    input_price, output_price = table.prices[i]
    by_price = token_cost(prompt, table.billed_tokens[known, i], input_price, output_price)
    predictor = Predictor(
        llm=table.names[i],
        encoder=fitting.encoder,
        input_price=float(input_price),
        output_price=float(output_price),
        maps=SharedMaps({f: maps.features[f] for f in used}, maps.directions),
        weights={f: _mixed(f, heads[f].weights, recipes, maps) for f in used},
        intercepts=(_intercept(0, heads, recipes[0]), _intercept(1, heads, recipes[1])),
        smearing=smearing,
        prompt=prompt_line(inputs.tokens, prompt),
        cost_offset_usd=float(np.mean(cost - by_price)),
        inverse_covariance=inverse_covariance(along(inputs.embeddings, maps.directions)),
        recipe={name: r.families for name, r in zip(TARGETS, recipes, strict=True)},
        metrics=_metrics(targets, recipes),
    )
    quality = np.clip(recipes[0].predicted, 0.0, 1.0)
    return Fitted(predictor, quality, tokens_of(recipes[1].predicted, smearing))


def _metrics(targets: np.ndarray, recipes: Sequence[Recipe]) -> dict[str, float]:
    """What ``predictor.json`` says of the fit. targets: (n, 2) of the rows that were answered."""
    quality, length = recipes
    return {
        "rows": float(len(targets)),
        "mean_quality": float(targets[:, 0].mean()),
        "quality_rmse": quality.error**0.5,
        "quality_rmse_of_mean": float(targets[:, 0].std()),
        "log_length_rmse": length.error**0.5,
        "log_length_rmse_of_mean": float(targets[:, 1].std()),
        "quality_slope": quality.slope,
        "length_slope": length.slope,
    }


def _mixed(
    family: str, weights: np.ndarray, recipes: Sequence[Recipe], maps: SharedMaps
) -> np.ndarray:
    """(m, 2) a family's part in the calibrated mean of each target."""
    parts = [r.slope / len(r.families) * (family in r.families) for r in recipes]
    return np.ascontiguousarray((weights * parts).astype(maps.features[family].weight_type))


def _intercept(target: int, heads: HeadsOf, recipe: Recipe) -> float:
    mean = np.mean([heads[family].intercepts[target] for family in recipe.families])
    return float(recipe.intercept + recipe.slope * mean)


def prompt_line(counted: np.ndarray, billed: np.ndarray) -> tuple[float, float]:
    """(offset, slope) of billed prompt tokens over counted ones, neither negative."""
    spread = counted - counted.mean()
    variance = float(spread @ spread)
    ratio = float(billed.sum() / max(counted.sum(), 1.0))
    slope = float(spread @ billed) / variance if variance > 0 else ratio
    offset = float(billed.mean() - slope * counted.mean())
    return (offset, slope) if slope > 0 and offset >= 0 else (0.0, ratio)
