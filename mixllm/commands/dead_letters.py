"""Commands for rows that Postgres refused."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Table

from infra.settings import read_settings
from mixllm.app import app
from mixllm.console import console
from mixllm.context import store

dead_letters = typer.Typer(help="Rows that Postgres refused: look, try again, or drop them.")
app.add_typer(dead_letters, name="dead-letters", no_args_is_help=True)
LetterIds = Annotated[
    list[str] | None, typer.Argument(help="Ids or their beginnings, as list shows them.")
]
AllLetters = Annotated[bool, typer.Option("--all", help="Every dead letter of this machine.")]


@dead_letters.command("list")
def dead_letters_list() -> None:
    """The dead letters of this machine's journals, the oldest first."""
    from monitoring.store.journals import dead_letters_of

    table = Table("journal", "id", "at", "reason")
    for journal, letters in dead_letters_of(read_settings().home).items():
        for letter in letters.read():
            table.add_row(journal, letter.id, letter.at, letter.reason)
    console.print(table if table.row_count else "no dead letters")


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
    """Insert rows again, once what refused them is mended; those that succeed go."""
    from monitoring.store.journals import JOURNALS

    engine, failed = None, 0
    for journal, (letters, chosen) in chosen_letters(ids, everything).items():
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
    for journal, (letters, chosen) in chosen_letters(ids, everything).items():
        letters.remove([letter.id for letter in chosen])
        console.print(f"{journal}: {len(chosen)} dropped")


def chosen_letters(ids: list[str] | None, everything: bool) -> dict[str, Any]:
    """Journal → (its dead letters, the chosen ones), where there are any. Raises StoreError."""
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
