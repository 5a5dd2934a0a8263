"""Commands for API keys."""

from __future__ import annotations

from typing import Annotated

import typer

from mixllm.app import SERVE, app
from mixllm.console import console, print_json, show_rows, to_minute
from mixllm.context import store
from mixllm.options import AsJson

keys = typer.Typer(help="API keys of the service: who may ask, how often, for how much.")
app.add_typer(keys, name="keys", no_args_is_help=True, rich_help_panel=SERVE)


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="route (the default), feedback or admin; again for more."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    monthly_budget: Annotated[float | None, typer.Option(min=0, help="USD a month.")] = None,
    explore: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How often another LLM than the best is drawn."),
    ] = None,
) -> None:
    """Make a key and show it, this once; from then on the service asks for keys."""
    from models.decision.exploration import Exploration
    from monitoring.store.keys import KeyOptions, create_key

    exploration = None
    if explore is not None:
        exploration = Exploration(kind="epsilon", epsilon=explore)
    options = KeyOptions(requests_per_minute, monthly_budget, exploration)
    _, secret = create_key(store(), name, scope or ["route"], options)
    print(secret)
    console.print(
        "shown this once; within a few seconds the service asks everybody for a key.\n"
        "Commands of mixllm pass the one in MIXLLM_API_KEY; "
        "clients send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
        style="dim",
    )


@keys.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """Every key ever made, and what it has spent this month."""
    from monitoring.store.answers import spent_this_month
    from monitoring.store.keys import dollars, list_keys, read_access

    engine = store()
    spent = spent_this_month(engine)
    access = read_access(engine)
    rows = [{**row, "spent_usd": spent.get(row["id"], 0.0)} for row in list_keys(engine)]
    if as_json:
        print_json({"required": access.required, "unusable": access.unusable, "keys": rows})
        return
    columns = {
        "id": lambda row: row["id"],
        "name": lambda row: row["name"],
        "scopes": lambda row: ", ".join(row["scopes"]),
        "per minute": lambda row: str(row["requests_per_minute"] or ""),
        "budget": lambda row: (
            "" if row["monthly_budget_usd"] is None else dollars(row["monthly_budget_usd"])
        ),
        "spent": lambda row: dollars(row["spent_usd"]),
        "exploration": lambda row: (
            str(row["exploration"].get("kind", "")) if row["exploration"] else ""
        ),
        "created": lambda row: to_minute(row["created_at"]),
        "revoked": lambda row: to_minute(row["revoked_at"]) if row["revoked_at"] else "",
    }
    show_rows(rows, columns)
    for why in access.unusable.values():
        console.print(f"{why}; revoke it and create another", style="red", soft_wrap=True)
    console.print(REQUIREMENT[access.required], soft_wrap=True)


REQUIREMENT = {
    True: "Every request needs a key.",
    False: "No request needs a key: mixllm keys open.",
    None: "No request needs a key; from the first key on, every request will.",
}


@keys.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="A key's name or id.")]) -> None:
    """No service takes the key any more, within a few seconds. Keys stay required."""
    from monitoring.store.keys import read_access, revoke_key

    engine = store()
    revoke_key(engine, name)
    console.print(f"{name} revoked")
    if not read_access(engine).keys:
        console.print(
            "no key is in use now, and every request still needs one; to let everybody in: "
            "mixllm keys open",
            soft_wrap=True,
        )


@keys.command("require")
def keys_require() -> None:
    """From now on every request needs a key, even before the first one is made."""
    from monitoring.store.keys import require_keys

    require_keys(store())
    console.print(REQUIREMENT[True])


@keys.command("open")
def keys_open() -> None:
    """From now on no request needs a key; refused while keys are in use."""
    from monitoring.store.keys import open_access

    open_access(store())
    console.print(REQUIREMENT[False])
