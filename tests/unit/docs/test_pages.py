"""What the pages say must be there: links, modules, paths, commands, make targets."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

import mixllm.cli  # noqa: F401 - adds the commands to the app
from benchmarks.readme_tables import settings
from mixllm.app import app

ROOT = Path(__file__).parents[3]
GUIDES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [*GUIDES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "SECURITY"))]
ROOMS = "benchmarks|experiments|flows|infra|mixllm|models|monitoring|serving|tests"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PYTHON = re.compile(rf"python3? -m ((?:{ROOMS})[\w.]*)((?: [^`\n#]*)?)")
by_path = pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


def shell_lines(page: Path) -> Iterator[str]:
    for language, block in FENCE.findall(page.read_text()):
        if language == "sh":
            yield from block.replace("\\\n", " ").splitlines()


def inline_codes(page: Path) -> list[str]:
    return [" ".join(code.split()) for code in INLINE.findall(prose(page))]


def anchors(page: Path) -> set[str]:
    """A page's anchors, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        inside = ROOT / "docs" not in page.parents or ROOT / "docs" in file.parents
        if (
            not file.exists() or not inside or (anchor and anchor not in anchors(file))
        ):  # the site holds docs/ alone
            broken.append(target)
    assert not broken


def test_the_readme_stays_short() -> None:
    assert (ROOT / "README.md").stat().st_size < 9_000


@by_path
def test_paths_exist(page: Path) -> None:
    named = [
        code for code in inline_codes(page) if re.fullmatch(rf"(?:{ROOMS}|docs)/[\w./-]*", code)
    ]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_tests_of_hardening_exist() -> None:
    text = (ROOT / "docs" / "hardening.md").read_text()
    files = [ROOT / "tests" / name for name in re.findall(r"(?:unit|integration)/[\w/]+\.py", text)]
    assert len(files) > 50
    assert [str(file) for file in files if not file.exists()] == []
    sources = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)", text) if f"def {name}" not in sources] == []


def test_the_architecture_names_modules_that_exist() -> None:
    codes = inline_codes(ROOT / "docs" / "architecture.md")
    modules = [code for code in codes if re.fullmatch(rf"(?:{ROOMS})(?:\.\w+)+", code)]
    assert len(modules) > 50
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


def test_the_architecture_quotes_the_import_contracts() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    for contract in contracts["contracts"]:
        if contract["type"] == "layers":
            assert "```\n" + "\n".join(contract["layers"]) + "\n```" in text
        else:
            assert f"*{contract['name']}*" in text


def test_the_table_of_settings_is_the_generated_one() -> None:
    """``python -m benchmarks.readme_tables`` writes it."""
    text = (ROOT / "docs" / "operations.md").read_text()
    assert f"<!-- settings -->\n{settings()}\n<!-- /settings -->" in text


def commands(line: str) -> Iterator[list[str]]:
    """The ``mixllm`` commands of a shell line or of inline code, each as its words.

    Alternatives, ``mixllm drift check | list``, are commands of the same group.
    """
    for part in re.split(r"&&|;", line):
        command = re.match(r"\s*(?:\w+=\S+ )*mixllm (.*)", part)
        if command is None:
            continue
        plain = command[1].replace("[", " ").replace("]", " ")
        first, *others = " ".join(shlex.split(plain, comments=True)).split(" | ")
        words = first.split()
        yield from (words, *([*words[:1], *other.split()] for other in others))


def faults(words: list[str], *, whole: bool) -> list[str]:
    """What is wrong with a command. whole: whether it is quoted to be run as it stands."""
    text = f"mixllm {' '.join(words)}"
    command = typer.main.get_command(app)
    rest = list(words)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            return [f"{text}: no command {name}"]
        command = command.commands[name]
    options = [p for p in command.params if isinstance(p, TyperOption)]
    known = {"--help", *(name for option in options for name in option.opts)}
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    wrong = [f"{text}: no option {name}" for name in sorted(given - known)]
    if whole and "--help" not in given:
        if isinstance(command, TyperGroup) and not given:
            wrong.append(f"{text}: which command?")
        wrong += [
            f"{text}: lacks {o.opts[0]}" for o in options if o.required and not given & {*o.opts}
        ]
        arguments = [p for p in command.params if isinstance(p, TyperArgument) and p.required]
        if arguments and not rest:
            wrong.append(f"{text}: lacks {arguments[0].name}")
    return wrong


@by_path
def test_commands_exist_with_their_options(page: Path) -> None:
    quoted = [(line, True) for line in shell_lines(page)]
    quoted += [(code, False) for code in inline_codes(page)]
    found = [
        fault
        for line, whole in quoted
        for words in commands(line)
        for fault in faults(words, whole=whole)
    ]
    assert found == []


@by_path
def test_modules_to_run_exist_with_their_options(page: Path) -> None:
    text = "\n".join([*shell_lines(page), *inline_codes(page)])
    wrong = []
    for module, rest in PYTHON.findall(text):
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            wrong.append(module)
            continue
        source = Path(spec.origin).read_text()
        options = re.findall(r"(?<!\S)--[\w-]+", rest)
        wrong += [f"{module} {o}" for o in options if f'"{o}"' not in source]
    assert wrong == []


@by_path
def test_make_targets_exist(page: Path) -> None:
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [*shell_lines(page), *inline_codes(page)]
    called = [line.split("#")[0] for line in lines if re.match(r"make [a-z]", line)]
    targets = [word for line in called for word in re.split(r"&&", line)[0].split()[1:]]
    assert [target for target in targets if "=" not in target and target not in rules] == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("mixllm trian --data x", "no command trian"),
        ("mixllm train --dta x", "no option --dta"),
        ("mixllm train", "lacks --data"),
        ("mixllm drift check | lst", "no command lst"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, fault: str) -> None:
    found = [text for words in commands(line) for text in faults(words, whole=True)]
    assert any(fault in text for text in found)
