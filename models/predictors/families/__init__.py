"""Predictor families by name; which are used unless said otherwise."""

from __future__ import annotations

from typing import Final

from models.predictors.families.boosting import Boosting
from models.predictors.families.contract import FeatureMap
from models.predictors.families.forest import Forest
from models.predictors.families.landmarks import Landmarks
from models.predictors.families.neighbours import Neighbours
from models.predictors.families.perceptron import Perceptron
from models.predictors.families.ridge import Ridge

FAMILIES: Final[dict[str, type[FeatureMap]]] = {
    family.family: family for family in (Ridge, Landmarks, Forest, Boosting, Neighbours, Perceptron)
}
DEFAULT_FAMILIES: Final = ("ridge", "landmarks", "forest", "mlp")
