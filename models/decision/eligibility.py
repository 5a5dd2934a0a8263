"""Who may be asked where there are no predictions: the catalog's facts against what a request needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from models.catalog import Candidate, Catalog
from models.decision.wishes import Wishes
from models.errors import DecisionError, UnknownCandidate, nearest
from models.prices import token_cost

# An answer's length where nothing predicts it and the request sets no limit.
ASSUMED_RESPONSE_TOKENS: Final = 500.0


@dataclass(frozen=True)
class Need:
    """What a request needs of whoever answers it.

    wishes: its own conditions.
    abilities: what its content needs.
    prompt_tokens: estimated; 0 where the LLM is to judge itself whether the prompt fits.
    max_response_tokens: that the request allows, None where it sets no limit.
    reason: why there is no prediction.
    """

    wishes: Wishes
    abilities: tuple[str, ...]
    prompt_tokens: float
    max_response_tokens: float | None
    reason: str


def eligible(catalog: Catalog, need: Need, shut: frozenset[str]) -> list[str]:
    """The candidates that may be asked, the default first, then in the catalog's order.

    shut: candidates that cannot be asked.
    Raises DecisionError naming the first condition that leaves nobody.
    """
    wishes = need.wishes
    for name in wishes.candidates or ():
        if name not in catalog.names:
            raise UnknownCandidate(
                f"no candidate {name!r}; {nearest(name, catalog.names)}", param="candidates"
            )
    if wishes.min_quality is not None:
        raise DecisionError(
            f"min_quality {wishes.min_quality:g} cannot be promised: no quality is predicted "
            f"({need.reason})",
            param="min_quality",
        )
    left = [entry for entry in catalog.llms if entry.name not in shut]
    if wishes.candidates is not None:
        left = [entry for entry in left if entry.name in wishes.candidates]
    if not left:
        raise DecisionError("no candidate is left to choose from", param="candidates")
    for ability in need.abilities:
        left = _keep(
            left,
            lambda entry, ability=ability: ability in entry.abilities,  # type: ignore[misc]
            f"no candidate is left that has the ability {ability!r}",
            "abilities",
        )
    tokens = need.prompt_tokens + (need.max_response_tokens or 0.0)
    if need.prompt_tokens:
        largest = max(entry.context_window or 0 for entry in left)
        left = _keep(
            left,
            lambda entry: entry.context_window is None or tokens <= entry.context_window,
            f"about {tokens:.0f} tokens are needed, and no candidate's context window is larger "
            f"than {largest}",
            "messages",
        )
    if wishes.max_cost is not None:
        response = need.max_response_tokens
        response = ASSUMED_RESPONSE_TOKENS if response is None else response
        costs = {
            entry.name: token_cost(
                need.prompt_tokens, response, entry.input_price, entry.output_price
            )
            for entry in left
        }
        cheapest = min(costs, key=lambda name: costs[name])
        limit = wishes.max_cost
        left = _keep(
            left,
            lambda entry: costs[entry.name] <= limit,
            f"no candidate is estimated to cost at most ${limit:g}; the cheapest is {cheapest} with "
            f"${costs[cheapest]:.6f}",
            "max_cost",
        )
    first = catalog.default_candidate
    return sorted((entry.name for entry in left), key=lambda name: name != first)


def _keep(
    entries: list[Candidate], fits: Callable[[Candidate], bool], otherwise: str, param: str
) -> list[Candidate]:
    """Those that fit. Raises DecisionError where none does."""
    kept = [entry for entry in entries if fits(entry)]
    if not kept:
        raise DecisionError(otherwise, param=param)
    return kept
