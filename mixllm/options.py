"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Data = Annotated[Path, typer.Option(help="An evaluation set's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
Quarantine = Annotated[
    Path | None, typer.Option(help="Set bad rows aside in this file (JSON Lines) and go on.")
]
Encoder = Annotated[
    str | None, typer.Option(help="fine-tune, frozen, or reuse (the champion's).", metavar="MODE")
]
Tagger = Annotated[
    str | None, typer.Option(help="keyphrase (no LLM), instag, or llm.", metavar="KIND")
]
Domains = Annotated[str | None, typer.Option(help="Clusters of tags: a number, or auto.")]
Families = Annotated[
    str | None,
    typer.Option(
        help="Whose mean predicts, comma-separated: ridge, landmarks, forest, boosting, neighbours, mlp."
    ),
]
Tuning = Annotated[
    Path | None, typer.Option(help="YAML with settings of the tuning; mixllm schema lists them.")
]

GateData = Annotated[
    Path | None,
    typer.Option("--data", help="Whose test queries judge it; MIXLLM_DATA's by default."),
]


def options_of(
    tuning: Path | None,
    encoder: str | None = None,
    tagger: str | None = None,
    domains: str | None = None,
    families: str | None = None,
) -> dict[str, Any]:
    """Plain training options, checked. Raises SettingsError."""
    from infra.settings import read_settings
    from infra.training.taggers import check_tagger
    from models.training_options import read_options, read_tuning

    given = {
        "encoder": encoder,
        "tagger": tagger,
        "domains": int(domains) if domains and domains.isdigit() else domains,
        "tuning": read_tuning(tuning),
        "families": families.replace(" ", "").split(",") if families else None,
    }
    check_tagger(read_options(**given).tagger, read_settings())
    return {key: value for key, value in given.items() if value is not None}
