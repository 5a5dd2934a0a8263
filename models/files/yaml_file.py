"""YAML that users write, read without its traps.

YAML 1.1 reads ``no`` as false, ``1:30`` as 90, ``010`` as 8, ``2024-01-01`` as a date and ``1e6`` as
text, and keeps the last of two equal keys. Here, as in YAML 1.2, only ``true`` and ``false`` are
booleans, numbers are decimal, and a key written twice is an error. Aliases can make a few lines
expand to billions of values, so the size after expansion is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from models.files.regular_file import MIB, UnusableFile, read_small

# A catalog of 1,000 LLMs takes about 0.3 MiB.
MOST_BYTES: Final = MIB // 2
# Values after aliases are expanded: a catalog has about 15 an LLM.
MOST_VALUES: Final = 50_000
# A catalog nests 5 deep.
MOST_DEPTH: Final = 50
# Of an error message that quotes the file.
MOST_CHARACTERS: Final = 300

BOOLEAN: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
NULL: Final = re.compile(r"~|null|Null|NULL|")
INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT: Final = re.compile(
    r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)\.[0-9]*)([eE][-+]?[0-9]+)?"
    r"|[-+]?(0|[1-9][0-9]*)[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class _Loader(yaml.SafeLoader):
    """Scalars as in YAML 1.2; equal keys are an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - add_implicit_resolver fills it

    def construct_mapping(
        self,
        node: MappingNode,
        deep: bool = False,  # noqa: FBT001 - PyYAML's signature
    ) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise UnusableFile(f"line {key.start_mark.line + 1}: a key must be plain text")
            line = key.start_mark.line + 1
            if key.value in seen and key.value != "<<":
                raise UnusableFile(
                    f"line {line}: the key {key.value!r} is on line {seen[key.value]} already"
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: ScalarNode) -> int:
        return int(self.construct_scalar(node))

    def construct_yaml_float(self, node: ScalarNode) -> float:
        text = str(self.construct_scalar(node)).lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


class _Dumper(yaml.SafeDumper):
    """Quotes text that any version of YAML would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", BOOLEAN, "tTfF"),
    ("tag:yaml.org,2002:null", NULL, ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", INTEGER, "-+0123456789"),
    ("tag:yaml.org,2002:float", FLOAT, "-+.0123456789"),
):
    _whole = re.compile(f"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(_tag, _whole, list(_first))
    _Dumper.add_implicit_resolver(_tag, _whole, list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def read_yaml(path: Path) -> Any:
    """The file's one document. Raises UnusableFile naming the line."""
    return parse_yaml(read_small(path, MOST_BYTES))


def parse_yaml(text: str) -> Any:
    """One document. Raises UnusableFile naming the line."""
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise UnusableFile(f"not YAML: {one_line(error)}") from error
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        measure(node, {}, 0)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UnusableFile(f"not YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise UnusableFile(f"nested more than {MOST_DEPTH} deep") from error
    except UnusableFile:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise UnusableFile(f"not YAML: {error}") from error
    finally:
        loader.dispose()


def one_line(error: yaml.YAMLError) -> str:
    """A YAML error without its drawing of the place."""
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None)
    if mark is None or said is None:
        return " ".join(str(error).split())[:MOST_CHARACTERS]
    return f"line {mark.line + 1}, column {mark.column + 1}: {said[:MOST_CHARACTERS]}"


def measure(node: Node, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """(values, levels) that a node stands for when its aliases are expanded. Raises UnusableFile.

    known: of the nodes measured before, (0, 0) for those that hold this one.
    """
    line = node.start_mark.line + 1
    values, levels = known.get(id(node), (-1, 0))
    if values == 0:
        raise UnusableFile(f"line {line}: an alias refers to itself")
    if values < 0:
        known[id(node)] = (0, 0)
        values = levels = 1
        children = node.value if isinstance(node, SequenceNode) else ()
        if isinstance(node, MappingNode):
            children = [child for pair in node.value for child in pair]
        for child in children:
            if depth >= MOST_DEPTH:
                raise UnusableFile(f"line {line}: nested more than {MOST_DEPTH} deep")
            more, below = measure(child, known, depth + 1)
            values, levels = values + more, max(levels, below + 1)
            if values > MOST_VALUES:
                raise UnusableFile(
                    f"line {line}: more than {MOST_VALUES:,} values with aliases expanded"
                )
        known[id(node)] = (values, levels)
    if depth + levels > MOST_DEPTH:
        raise UnusableFile(f"line {line}: nested more than {MOST_DEPTH} deep")
    return values, levels


def dump_yaml(data: Any) -> str:
    """Text that ``parse_yaml`` reads back the same, as any other reader does."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
