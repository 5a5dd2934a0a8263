"""Commands that change the candidates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mixllm.app import TRAIN, app
from mixllm.console import console, outcome, say
from mixllm.context import champion_candidates, point_prefect, registry, settings_with_stack
from mixllm.options import Data, Quarantine
from models.errors import ReleaseError, UnknownCandidate, nearest

candidate = typer.Typer(help="Change the candidates of a release, one at a time.")
app.add_typer(candidate, name="candidate", no_args_is_help=True, rich_help_panel=TRAIN)
Name = Annotated[str, typer.Argument(help="A candidate's name.")]
Promote = Annotated[bool, typer.Option("--promote", help="Make the new release champion.")]


@candidate.command("add")
def candidate_add(
    name: Name, data: Data, promote: Promote = False, quarantine: Quarantine = None
) -> None:
    """Fit a new candidate's predictor and register a release with it."""
    change_candidate_with(name, data, quarantine, promote=promote, known=False)


@candidate.command("refit")
def candidate_refit(
    name: Name, data: Data, promote: Promote = False, quarantine: Quarantine = None
) -> None:
    """Fit a candidate's predictor anew and register a release with it."""
    change_candidate_with(name, data, quarantine, promote=promote, known=True)


@candidate.command("remove")
def candidate_remove(name: Name, promote: Promote = False) -> None:
    """Register a release without a candidate."""
    change_candidate_with(name, promote=promote, known=True)


@candidate.command("disable")
def candidate_disable(names: Annotated[list[str], typer.Argument(help="Candidates.")]) -> None:
    """Nobody gets these candidates from now on, whatever the release."""
    set_disabled(lambda now: now | known_candidates(names))


@candidate.command("enable")
def candidate_enable(names: Annotated[list[str], typer.Argument(help="Candidates.")]) -> None:
    """Let disabled candidates be chosen again."""
    set_disabled(lambda now: now - frozenset(names))


def change_candidate_with(
    name: str,
    data: Path | None = None,
    quarantine: Path | None = None,
    *,
    promote: bool,
    known: bool,
) -> None:
    """Run the flow, after checking that the change makes sense."""
    settings = settings_with_stack()
    names = champion_candidates(settings)
    if known and name not in names:
        raise UnknownCandidate(f"no candidate {name!r}; {nearest(name, names)}")
    if not known and name in names:
        raise ReleaseError(f"{name!r} is a candidate already; fit it anew: mixllm candidate refit")
    if data is not None:
        from models.data.files import read_evaluation_set
        from models.evaluation.preconditions import check_candidate

        # What is wrong with the data is said before anything starts.
        check_candidate(name, read_evaluation_set(data, quarantine))
    point_prefect(settings)
    from flows.change_candidate import change_candidate

    result = change_candidate(
        name,
        str(data.resolve()) if data else None,
        promote_release=promote,
        quarantine=str(quarantine) if quarantine else None,
    )
    say(f"release {result['version']} registered, from {result['base']}, {outcome(result)}")


def known_candidates(names: list[str]) -> frozenset[str]:
    known = champion_candidates(settings_with_stack())
    for name in names:
        if name not in known:
            raise UnknownCandidate(f"no candidate {name!r}; {nearest(name, known)}")
    return frozenset(names)


def set_disabled(change: Callable[[frozenset[str]], frozenset[str]]) -> None:
    """Write the disabled candidates and tell the service of this machine, if one runs."""
    import httpx

    from infra.addresses import request_directly

    settings = settings_with_stack()
    opened = registry(settings)
    disabled = change(opened.disabled())
    opened.set_disabled(disabled)
    try:
        url = f"{settings.service_url}/v1/refresh"
        request_directly("POST", url, headers=settings.key_header, timeout=2)
    except httpx.HTTPError:
        console.print(f"services pick it up within {settings.poll_seconds:g} s")
    console.print(f"disabled: {', '.join(sorted(disabled)) or 'none'}")
