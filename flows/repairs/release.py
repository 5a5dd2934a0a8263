"""Repairs that make a release: a larger latency penalty, a new training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from flows.repairs.case import Case, Made
from flows.steps import register_change
from flows.train_router import train_router
from models.release.change import replace_defaults

BETA_FACTOR: Final = 2.0


def raise_beta(case: Case) -> Made:
    """A release whose latency penalty weighs twice as much."""
    version, folder, manifest = case.base()
    beta = BETA_FACTOR * manifest.defaults.beta
    defaults = manifest.defaults.model_copy(update={"beta": beta})
    with tempfile.TemporaryDirectory() as temporary:
        changed = Path(temporary) / "release"
        replace_defaults(folder, changed, defaults)
        change = f"alert {case.number}: beta {manifest.defaults.beta:g} → {beta:g}"
        new: str = register_change(changed, version, change, None, case.scene.settings)
    state = case.settle(new)
    return Made(f"release {new}, {state}: beta {beta:g}", new, state)


def retrain(case: Case, encoder: str | None = None) -> Made:
    """Train on the configured evaluation set."""
    made = train_router(case.data, promote_release=case.acts, encoder=encoder)
    version, state = made["version"], made["state"]
    return Made(f"release {version}, {state}: retrained", version, state)


def retune(case: Case) -> Made:
    """Train with a newly fine-tuned encoder."""
    return retrain(case, "fine-tune")
