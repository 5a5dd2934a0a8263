"""Catalogs as their files hold them: read, with what is wrong in the catalog's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from models.catalog import Candidate, Catalog, Upstream
from models.errors import CatalogError, nearest
from models.files.regular_file import UnusableFile
from models.files.yaml_file import read_yaml

# May hold what must not be shown.
PRIVATE: Final = ("base_url", "headers")


def parse_catalog(data: Any, where: str) -> Catalog:
    """A catalog from parsed YAML or JSON; where: named in the error. Raises CatalogError."""
    if not isinstance(data, dict):
        raise CatalogError(f"{where}: expected a mapping with the key 'llms'")
    try:
        # JSON forms (tuples from lists) are what YAML gives.
        return Catalog.model_validate(data)
    except ValidationError as error:
        raise CatalogError(f"{where}: {describe(error, data)}", errors=error.errors()) from error


def read_catalog(path: Path) -> Catalog:
    """Read ``catalog.yaml``. Raises CatalogError naming the candidate and the key, or the line."""
    try:
        data = read_yaml(path)
    except UnusableFile as error:
        separator = ", " if str(error).startswith("line ") else ": "
        raise CatalogError(f"{path}{separator}{error}") from error
    return parse_catalog(data, str(path))


def describe(error: ValidationError, data: dict[str, Any]) -> str:
    """Pydantic's errors in the catalog's words: which candidate, which key, what to do."""
    lines = []
    for item in error.errors():
        place = item["loc"]
        if len(place) >= 2 and place[0] == "llms" and isinstance(place[1], int):
            entries = data.get("llms")
            entry = entries[place[1]] if isinstance(entries, list | tuple) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            who = f"candidate {name!r}" if name else f"candidate number {place[1] + 1}"
            known = list(Upstream.model_fields if "upstream" in place else Candidate.model_fields)
        else:
            who, known = "catalog", list(Catalog.model_fields)
        key = str(place[-1]) if place else ""
        said = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            lines.append(f"{who}: unknown key {key!r}; {nearest(key, known)}")
        elif item["type"] == "missing":
            lines.append(f"{who}: {key} is missing")
        elif key in PRIVATE or "headers" in place:
            lines.append(f"{who}: {key}: {said}")
        elif item["type"] == "string_type" and not isinstance(item["input"], dict | list):
            lines.append(f"{who}: {key}: {item['input']!r} is not text; put it in quotes")
        elif item["type"] == "value_error" and key and place[-1] != "upstream":
            lines.append(f"{who}: {key}: {shown(item['input'])} {said}")
        else:
            got = "" if isinstance(item["input"], dict | list) else f" (got {shown(item['input'])})"
            lines.append(f"{who}: {key}: {said}{got}" if key else f"{who}: {said}")
    return "; ".join(lines[:10]) + (f"; and {len(lines) - 10} more" if len(lines) > 10 else "")


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
