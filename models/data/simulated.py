"""A simulated evaluation set: real task texts with checkable answers, simulated LLMs.

For the demo and the tests, which need outcomes and may not call an LLM. Nothing measured on it says
anything of real LLMs.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd

from models.catalog import Candidate, Catalog
from models.data.evaluation_set import EvaluationSet
from models.data.validation import validate

NAME: Final = "simulated"
LEVELS: Final = 5
ORDINALS: Final = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth")
PEOPLE: Final = ("Ada", "Boris", "Chen", "Dalia", "Emeka", "Freya", "Goran", "Hana", "Ivo", "Jun")
THINGS: Final = ("pencils", "lamps", "chairs", "melons", "books", "candles", "shirts", "kettles")
WORDS: Final = (
    "harbour",
    "velvet",
    "lantern",
    "copper",
    "meadow",
    "silence",
    "orchard",
    "thunder",
    "marble",
    "pepper",
    "island",
    "saddle",
    "winter",
    "ribbon",
    "anchor",
    "bramble",
    "cactus",
    "falcon",
    "glacier",
    "hammer",
    "ivory",
    "jungle",
    "kernel",
    "lizard",
    "mosaic",
)


@dataclass(frozen=True)
class Task:
    """One query with its checkable answer. level: 1 (easy) to 5 (hard)."""

    family: str
    level: int
    query: str
    answer: str


def arithmetic(rng: np.random.Generator, level: int) -> Task:
    numbers = [int(rng.integers(2, 10 ** min(level, 4))) for _ in range(1 + level)]
    result = numbers[0]
    text = str(numbers[0])
    for number in numbers[1:]:
        if rng.random() < 0.3 + 0.1 * level:
            result, text = result * number, f"({text}) * {number}"
        else:
            result, text = result + number, f"{text} + {number}"
    return Task("arithmetic", level, f"Compute {text}. Give only the number.", str(result))


def shopping(rng: np.random.Generator, level: int) -> Task:
    who = rng.choice(PEOPLE)
    total, parts = 0, []
    for _ in range(level):
        count, price = int(rng.integers(2, 12)), int(rng.integers(3, 40))
        total += count * price
        parts.append(f"{count} {rng.choice(THINGS)} at ${price} each")
    off = int(rng.choice([5, 10, 20, 25])) if level > 2 else 0
    discount = f" The shop takes {off} % off the whole bill." if off else ""
    text = f"{who} buys {', then '.join(parts)}.{discount} How many dollars does {who} pay?"
    return Task("shopping", level, text, f"{total * (100 - off) / 100:g}")


def calendar(rng: np.random.Generator, level: int) -> Task:
    start = datetime.date(2020, 1, 1) + datetime.timedelta(days=int(rng.integers(0, 2000)))
    days = int(rng.integers(2, 8 * 7**level // 4))
    when = start + datetime.timedelta(days=days)
    text = (
        f"{start:%d %B %Y} was a {start:%A}. Which day of the week falls {days} days after "
        f"{start:%d %B %Y}?"
    )
    return Task("calendar", level, text, f"{when:%A}")


def python_output(rng: np.random.Generator, level: int) -> Task:
    values = [int(v) for v in rng.integers(-9, 20, size=3 + 2 * level)]
    step, limit = int(rng.integers(2, 5)), int(rng.integers(0, 9))
    body = [f"    total += x * {step} if x > {limit} else {limit}"]
    total = sum(x * step if x > limit else limit for x in values)
    if level >= 3:
        body.append("total %= 97")
        total %= 97
    if level >= 5:
        body.append("total = int(str(total)[::-1])")
        total = int(str(total)[::-1]) if total >= 0 else total
    code = "\n".join(["total = 0", f"for x in {values}:", *body, "print(total)"])
    text = f"What does this Python program print?\n```python\n{code}\n```"
    return Task("python", level, text, str(total))


def letters(rng: np.random.Generator, level: int) -> Task:
    words = " ".join(rng.choice(WORDS, size=level, replace=False))
    letter = str(rng.choice(sorted(set(words.replace(" ", "")))))
    text = f'How many times does the letter "{letter}" occur in "{words}"?'
    return Task("letters", level, text, str(words.count(letter)))


def sorting(rng: np.random.Generator, level: int) -> Task:
    words = [str(w) for w in rng.choice(WORDS, size=2 + 2 * level, replace=False)]
    text = f"Sort these words alphabetically and name the {ORDINALS[level + 1]} one: {', '.join(words)}."
    return Task("sorting", level, text, sorted(words)[level])


def ordering(rng: np.random.Generator, level: int) -> Task:
    people = [str(p) for p in rng.choice(PEOPLE, size=3 + level, replace=False)]
    facts = [f"{a} is taller than {b}." for a, b in pairwise(people)]
    order = rng.permutation(len(facts))
    text = f"{' '.join(facts[i] for i in order)} Who is the {ORDINALS[level + 1]} tallest?"
    return Task("ordering", level, text, people[level])


def conversion(rng: np.random.Generator, level: int) -> Task:
    units = [("kilometres", "metres", 1000), ("hours", "minutes", 60), ("weeks", "days", 7)]
    units += [("kilograms", "grams", 1000), ("days", "hours", 24), ("minutes", "seconds", 60)]
    big, small, factor = units[int(rng.integers(len(units)))]
    amount, extra = int(rng.integers(2, 10**level)), int(rng.integers(1, factor))
    text = f"How many {small} are {amount} {big} and {extra} {small}?"
    return Task("conversion", level, text, str(amount * factor + extra))


FAMILIES: Final[dict[str, Callable[[np.random.Generator, int], Task]]] = {
    "arithmetic": arithmetic,
    "shopping": shopping,
    "calendar": calendar,
    "python": python_output,
    "letters": letters,
    "sorting": sorting,
    "ordering": ordering,
    "conversion": conversion,
}
# The level that each simulated LLM solves half of the time, by family, in FAMILIES' order.
SKILLS: Final = {
    "sim-nano": (1.4, 1.6, 0.8, 0.6, 1.2, 2.4, 1.6, 2.4),
    "sim-mini": (2.4, 3.2, 1.8, 1.8, 1.8, 3.4, 2.6, 3.6),
    "sim-coder": (3.0, 2.4, 2.2, 5.4, 2.6, 3.8, 2.8, 3.4),
    "sim-maths": (5.2, 4.8, 3.8, 2.6, 1.6, 2.4, 3.2, 5.4),
    "sim-large": (3.8, 4.6, 3.6, 4.2, 3.2, 5.0, 4.8, 4.8),
    "sim-frontier": (5.0, 6.0, 5.2, 5.4, 4.6, 6.2, 6.0, 6.0),
}
# Mean response tokens at level 1, and what each further level adds, in shares.
LENGTHS: Final = {
    "sim-nano": (40, 0.2),
    "sim-mini": (70, 0.3),
    "sim-coder": (120, 0.35),
    "sim-maths": (150, 0.5),
    "sim-large": (110, 0.35),
    "sim-frontier": (180, 0.5),
}
CATALOG: Final = Catalog(
    llms=tuple(
        Candidate(
            name=name,
            input_price=input_price,
            output_price=output_price,
            tokens_per_second=speed,
            time_to_first_token=first,
        )
        for name, input_price, output_price, speed, first in [
            ("sim-nano", 0.05, 0.1, 250.0, 0.15),
            ("sim-mini", 0.15, 0.6, 180.0, 0.25),
            ("sim-coder", 0.3, 1.2, 120.0, 0.4),
            ("sim-maths", 0.4, 1.6, 100.0, 0.4),
            ("sim-large", 1.0, 4.0, 80.0, 0.6),
            ("sim-frontier", 3.0, 15.0, 60.0, 0.9),
        ]
    ),
    default="sim-large",
)


def simulated_tasks(rng: np.random.Generator, count: int) -> list[Task]:
    """Distinct tasks of every family and level."""
    tasks: dict[str, Task] = {}
    names = list(FAMILIES)
    while len(tasks) < count:
        family = names[int(rng.integers(len(names)))]
        task = FAMILIES[family](rng, int(rng.integers(1, LEVELS + 1)))
        tasks.setdefault(task.query, task)
    return list(tasks.values())


def right_answers(queries: int = 1500, seed: int = 0) -> dict[str, str]:
    """Query → its right answer, of ``simulated_evaluation_set`` with the same arguments."""
    return {t.query: t.answer for t in simulated_tasks(np.random.default_rng(seed), queries)}


def simulated_evaluation_set(queries: int = 1500, seed: int = 0) -> EvaluationSet:
    """Distinct tasks of every family and level, answered by the simulated LLMs."""
    rng = np.random.default_rng(seed)
    tasks = simulated_tasks(rng, queries)
    asked = pd.DataFrame(
        [(f"sim-{i}", t.query, t.family) for i, t in enumerate(tasks)],
        columns=["query_id", "query", "source"],
    )
    rows = []
    for identity, task in zip(asked["query_id"], tasks, strict=True):
        prompt = 8 + len(task.query) // 4
        for llm in SKILLS:
            rows.append(
                (identity, llm, answers_rightly(rng, llm, task), prompt, length(rng, llm, task))
            )
    columns = ["query_id", "llm", "quality", "prompt_tokens", "response_tokens"]
    return validate(asked, pd.DataFrame(rows, columns=columns), CATALOG, name=NAME)


def answers_rightly(rng: np.random.Generator, llm: str, task: Task) -> float:
    """1.0 or 0.0: a draw with a chance that falls as the task's level passes the LLM's skill."""
    skill = SKILLS[llm][list(FAMILIES).index(task.family)]
    return float(rng.random() < 1 / (1 + np.exp(-1.8 * (skill - task.level))))


def length(rng: np.random.Generator, llm: str, task: Task) -> int:
    """Response tokens: log-normal around the LLM's mean for the task's level."""
    base, growth = LENGTHS[llm]
    return max(1, int(base * (1 + growth * (task.level - 1)) * rng.lognormal(-0.03, 0.25)))
