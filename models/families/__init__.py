"""Predictor families by name; which are used unless said otherwise."""

from __future__ import annotations

from typing import Final

from models.families.boosting import Boosting
from models.families.contract import FeatureMap
from models.families.forest import Forest
from models.families.landmarks import Landmarks
from models.families.neighbours import Neighbours
from models.families.perceptron import Perceptron
from models.families.ridge import Ridge

FAMILIES: Final[dict[str, type[FeatureMap]]] = {
    family.family: family for family in (Ridge, Landmarks, Forest, Boosting, Neighbours, Perceptron)
}
DEFAULT_FAMILIES: Final = ("ridge", "landmarks", "forest", "mlp")
