"""Commands for what is stored: prune it, and see to rows that Postgres refused."""

from __future__ import annotations

import json
from functools import partial
from operator import itemgetter
from typing import Annotated, Any

import typer

from mixllm.app import WATCH, app
from mixllm.console import console, show_rows
from mixllm.context import registry, settings_with_stack, store
from mixllm.options import AsJson


@app.command(rich_help_panel=WATCH, epilog="Example: mixllm prune --dry-run")
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Delete decisions, states and reports that are old and no longer needed."""
    from monitoring.retention import prune as remove

    settings = settings_with_stack()
    gone = remove(store(), registry(settings), settings, dry=dry_run)
    for what, count in gone.items():
        console.print(f"{count} {what} {'would go' if dry_run else 'gone'}")


dead_letters = typer.Typer(help="Rows that Postgres refused: look, try again, or drop them.")
app.add_typer(dead_letters, name="dead-letters", no_args_is_help=True, rich_help_panel=WATCH)
LetterIds = Annotated[
    list[str] | None, typer.Argument(help="Ids or their beginnings, as list shows them.")
]
AllLetters = Annotated[bool, typer.Option("--all", help="Every dead letter of this machine.")]


@dead_letters.command("list")
def dead_letters_list(as_json: AsJson = False) -> None:
    """The dead letters of this machine's journals, the oldest first."""
    from infra.settings import read_settings
    from monitoring.store.journals import dead_letters_of

    rows = [
        {"journal": journal, "id": letter.id, "at": letter.at, "reason": letter.reason}
        for journal, letters in dead_letters_of(read_settings().home).items()
        for letter in letters.read()
    ]
    columns = {name: itemgetter(name) for name in ("journal", "id", "at", "reason")}
    show_rows(rows, columns, as_json=as_json, empty="no dead letters")


@dead_letters.command("show")
def dead_letters_show(ids: LetterIds = None) -> None:
    """Whole rows, with why they were refused, as JSON; all of them where no id is given."""
    for journal, (_, chosen) in chosen_letters(ids, everything=not ids).items():
        for letter in chosen:
            try:
                row: Any = letter.row
            except ValueError:
                row = letter.line
            shown = {"journal": journal, "id": letter.id, "at": letter.at, "reason": letter.reason}
            print(json.dumps({**shown, "row": row}, indent=2))


@dead_letters.command("retry")
def dead_letters_retry(ids: LetterIds = None, everything: AllLetters = False) -> None:
    """Insert rows again, once what refused them is fixed; those that succeed go."""
    from monitoring.store.journals import JOURNALS

    engine, failed = None, 0
    for journal, (letters, chosen) in chosen_letters(ids, everything=everything).items():
        engine = engine or store()
        insert = partial(JOURNALS[journal].insert, engine)
        refused = letters.retry(chosen, insert)
        failed += len(refused)
        for letter, reason in refused.items():
            console.print(f"{letter} of {journal}: refused again: {reason}")
        console.print(f"{journal}: {len(chosen) - len(refused)} inserted, {len(refused)} refused")
    if failed:
        raise typer.Exit(1)


@dead_letters.command("drop")
def dead_letters_drop(ids: LetterIds = None, everything: AllLetters = False) -> None:
    """Delete rows for good."""
    for journal, (letters, chosen) in chosen_letters(ids, everything=everything).items():
        letters.remove([letter.id for letter in chosen])
        console.print(f"{journal}: {len(chosen)} dropped")


def chosen_letters(ids: list[str] | None, *, everything: bool) -> dict[str, Any]:
    """Journal → (its dead letters, the chosen ones), where there are any. Raises StoreError."""
    from infra.settings import read_settings
    from models.errors import StoreError
    from monitoring.store.journals import dead_letters_of

    if bool(ids) == everything:
        raise StoreError("give the ids of dead letters, or --all; see: mixllm dead-letters list")
    out: dict[str, Any] = {}
    missing = set(ids or ())
    for journal, letters in dead_letters_of(read_settings().home).items():
        chosen = [
            letter
            for letter in letters.read()
            if everything or any(letter.id.startswith(wanted) for wanted in ids or ())
        ]
        missing -= {wanted for wanted in missing if any(c.id.startswith(wanted) for c in chosen)}
        if chosen:
            out[journal] = letters, chosen
    if missing:
        raise StoreError(f"no dead letter {min(missing)!r}; see: mixllm dead-letters list")
    return out
