"""What a training may be told: encoder, tagger, domains, tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.domains.clusters import CLUSTERS, ClusterCount
from models.encoder_tuning.settings import TuningSettings
from models.errors import SettingsError, nearest
from models.files.regular_file import UnusableFile
from models.files.yaml_file import read_yaml
from models.predictors.families import DEFAULT_FAMILIES

EncoderMode = Literal["frozen", "reuse", "fine-tune"]
TaggerKind = Literal["keyphrase", "instag", "llm"]
FamilyName = Literal["ridge", "landmarks", "forest", "boosting", "neighbours", "mlp"]


class TrainingOptions(BaseModel):
    """encoder: ``frozen``, the base model as published; ``fine-tune``, tuned on these queries;
    ``reuse``, the champion's. tagger: who tags. domains: clusters of tags, or ``auto``. tuning: see
    ``TuningSettings``; its base_model holds for the frozen encoder too. families: of the predictors
    (``models.predictors.families``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderMode = "frozen"
    tagger: TaggerKind = "keyphrase"
    domains: ClusterCount = CLUSTERS
    tuning: TuningSettings = TuningSettings()
    families: tuple[FamilyName, ...] = Field(DEFAULT_FAMILIES, min_length=1)

    @property
    def needs_domains(self) -> bool:
        """Whether the encoder depends on the domains."""
        return self.encoder == "fine-tune" and self.tuning.domain_weight > 0


def read_options(**given: Any) -> TrainingOptions:
    """Options from plain values; None stands for the default. Raises SettingsError naming the key."""
    try:
        return TrainingOptions.model_validate({k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = {*TrainingOptions.model_fields, *TuningSettings.model_fields}
        unknown = first["type"] == "extra_forbidden"
        hint = f"; {nearest(str(first['loc'][-1]), known)}" if unknown else ""
        raise SettingsError(f"{place}: {first['msg']} (got {first['input']!r}){hint}") from error


def read_tuning(path: Path | None) -> dict[str, Any] | None:
    """The keys of a YAML file of tuning settings. Raises SettingsError."""
    if path is None:
        return None
    try:
        found = read_yaml(path)
    except UnusableFile as error:
        raise SettingsError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: not a list of settings; write lines such as 'epochs: 3'")
    return found
