"""Every error a user can fix. The docstring is the default message; the context sits on attributes.

MixLLMError
├── CatalogError
├── EvaluationSetError
├── EncoderError
├── TaggingError
├── ReleaseError
│   ├── DigestMismatch
│   └── NoRelease
├── DecisionError
│   └── UnknownCandidate
├── PolicyError
├── SettingsError
├── RegistryError
└── StoreError
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class MixLLMError(Exception):
    """MixLLM could not go on."""

    def __init__(self, message: str | None = None, **context: Any) -> None:
        super().__init__(message or self.__class__.__doc__)
        self.context = context
        for name, value in context.items():
            setattr(self, name, value)


class CatalogError(MixLLMError):
    """The catalog is not valid."""


class EvaluationSetError(MixLLMError):
    """The evaluation set is not valid."""


class EncoderError(MixLLMError):
    """The encoder could not be loaded or run."""


class TaggingError(MixLLMError):
    """The queries could not be tagged."""


class ReleaseError(MixLLMError):
    """The release is not valid."""


class DigestMismatch(ReleaseError):
    """A file of the release is not the one its manifest names."""


class NoRelease(ReleaseError):
    """There is no such release."""


class DecisionError(MixLLMError):
    """The query cannot be routed."""


class UnknownCandidate(DecisionError):
    """No candidate of the release has that name."""


class PolicyError(MixLLMError):
    """The policy state is not valid."""


class SettingsError(MixLLMError):
    """The settings are not valid."""


class RegistryError(MixLLMError):
    """The model registry could not be used."""


class StoreError(MixLLMError):
    """The decision store could not be used."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that ends an error message: the nearest valid name, or all of them when few."""
    names = sorted(known)
    lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    if close:
        return f"did you mean {lower[close[0]]!r}?"
    shown = ", ".join(names[:20])
    return f"known: {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")
