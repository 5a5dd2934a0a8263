"""Write the tables of the README and of docs/: results from ``benchmarks/results``, and the settings.

    python -m benchmarks.readme_tables

Each table stands between two marks, so that no figure is typed by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from infra.settings import PREFIX, Settings
from models.evaluation.evaluate import measures_table
from models.evaluation.measures import Measured
from models.markdown_table import markdown_table

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
SETS: Final = ("zeroeval", "mmlu_pro")
ROUTERS: Final = {
    "mixllm": "**mixllm**",
    "tuned_knn": "tuned kNN",
    "clusters": "k-means clusters",
    "paper_recipe": "the paper's recipe",
    "constant_cost": "ablation: constant cost",
    "no_shrinkage": "ablation: no shrinkage",
    "best_single": "best single",
    "random": "random",
    "zero": "zero",
    "oracle": "oracle",
}
# Label, router, measure.
HEADLINE: Final = (
    ("**AIQ of MixLLM**", "mixllm", "aiq"),
    ("AIQ of tuned kNN", "tuned_knn", "aiq"),
    ("AIQ of the paper's recipe", "paper_recipe", "aiq"),
    ("AIQ of the best single LLM", "best_single", "aiq"),
    ("AIQ of mixing single LLMs at will", "zero", "aiq"),
    ("AIQ of an oracle", "oracle", "aiq"),
    (
        "cost of 97.25 % of the best single LLM's quality, as a share of its cost",
        "mixllm",
        "cost_at_97.25%_quality",
    ),
    (
        "quality at 24.18 % of the best single LLM's cost, as a share of its quality",
        "mixllm",
        "quality_at_24.18%_cost",
    ),
)


def headline() -> str:
    """The README's table: the main measures of both sets, without intervals, and the speed.

    A star: MixLLM's gain over this router is certain.
    """
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in SETS}
    titles = [f"{name}, {len(result['candidates'])} LLMs" for name, result in results.items()]
    rows = []
    for label, router, key in HEADLINE:
        cells = []
        for result in results.values():
            measures = result["measures"][router]
            low = measures["aiq_over"]["low"] if router != "mixllm" else None
            star = "\\*" if low is not None and low > 0 else ""
            cells.append(plain(measures[key]["value"], share=key != "aiq") + star)
        rows.append((label, *cells))
    speed = json.loads((RESULTS / "serving.json").read_text())["clients"]["1"]["milliseconds"]
    return "\n".join(
        [
            markdown_table(("", *titles), rows),
            "",
            "\\* MixLLM's gain over it is certain: the 95 % interval of the difference lies above 0.",
            "",
            f"One decision takes {speed['total']['p50']:.1f} ms, of which the encoder takes "
            f"{speed['encode']['p50']:.1f} ms (medians, one client, two cores).",
        ]
    )


def plain(value: float | None, *, share: bool) -> str:
    """A measure without its interval; a dash where the value is never reached."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if share else f"{value:.3f}"


def routing(name: str) -> str:
    """One evaluation set's measures and its plot."""
    results: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    measures = {n: Measured.of_dict(cells) for n, cells in results["measures"].items()}
    table = (row.values() for row in measures_table(measures))
    lines = [
        f"**{name}**: {results['training_queries']} training and {results['test_queries']} test "
        f"queries, {len(results['candidates'])} candidates",
        "",
        markdown_table(
            (
                "router",
                "AIQ",
                "gap closed",
                "cost at 97.25 % of the best single's quality",
                "quality at 24.18 % of its cost",
                "AIQ of mixllm over it",
            ),
            [(ROUTERS[router], *cells) for router, *cells in table],
        ),
    ]
    lines += [f"\nNote: {note}." for note in results["notes"]]
    lines += ["", *sources(results)]
    return "\n".join([*lines, "", f"![cost–quality curves](plots/{name}.png)"])


def sources(results: dict[str, Any]) -> list[str]:
    """The gap closed within each source, where routing can only gain inside it."""
    rows = []
    for source, of_source in results["sources"].items():
        mine, theirs = (
            Measured.of_dict(of_source["measures"][name]) for name in ("mixllm", "tuned_knn")
        )
        rows.append(
            (
                source,
                of_source["queries"],
                mine.gap_closed.text(share=True),
                theirs.gap_closed.text(share=True),
                theirs.aiq_over.text(share=False),
            )
        )
    heads = (
        "source", "test queries", "gap closed", "by tuned kNN", "AIQ of mixllm over tuned kNN",
    )  # fmt: skip
    return [markdown_table(heads, rows)]


def one_pass() -> str:
    """Scoring a query for all candidates, by how many there are."""
    results: dict[str, Any] = json.loads((RESULTS / "one_pass.json").read_text())
    rows = []
    for count, row in results["candidates"].items():
        spent = row["milliseconds"]["both"]
        kib = row["kib_per_candidate"]
        rows.append((count, f"{min(spent):.2f} to {max(spent):.2f}", f"{kib:.0f}"))
    lines = [
        "Scoring and deciding for one query, beyond the encoder (`python -m benchmarks.one_pass --data "
        f"../shared/data/{results['data']}`; medians of {results['rounds']} rounds):",
        "",
        markdown_table(("candidates", "milliseconds", "KiB per candidate, maps apart"), rows),
    ]
    shared = max(row["maps_mib"] for row in results["candidates"].values())
    return "\n".join([*lines, "", f"The maps that all share take {shared:.1f} MiB."])


def serving() -> str:
    """Latency by part, throughput, memory, readiness."""
    results: dict[str, Any] = json.loads((RESULTS / "serving.json").read_text())
    rows = []
    for clients, row in results["clients"].items():
        parts = {
            part: f"{value['p50']:.2f} / {value['p99']:.2f}"
            for part, value in row["milliseconds"].items()
        }
        order = ("total", "tokenize", "encode", "predict", "decide", "rest")
        rate = f"{min(row['per_second']):.0f} to {max(row['per_second']):.0f}"
        cells = [clients, rate, f"{row['p50_beyond_encoder']:.2f}", *(parts[p] for p in order)]
        rows.append(cells)
    heads = (
        "clients", "decisions per second", "beyond the encoder, p50", "total", "tokenise", "encode",
        "predict", "decide", "rest",
    )  # fmt: skip
    lines = [
        f"Ready after {results['ready_seconds']:.1f} s (from the copy on disk); "
        f"{results['memory_mib']:.0f} MiB resident.",
        "",
        markdown_table(heads, rows),
    ]
    note = (
        "Milliseconds, p50 / p99; *rest* is HTTP, JSON, storing and, with 16 clients on two cores,"
    )
    return "\n".join([*lines, "", f"{note} queueing for the encoder."])


def load() -> str:
    """The service under wrk, routing alone and carrying chat completions."""
    results: dict[str, Any] = json.loads((RESULTS / "load.json").read_text())
    rows = []
    default, two = (results["variants"][name] for name in ("default", "2 workers"))
    for what, by_clients in default["load"].items():
        for clients, row in by_clients.items():
            other = two["load"][what][clients]
            cells = [f"{what}, {clients}", rate_of(row)]
            cells += [f"{row[p]:.1f}" for p in ("p50", "p95", "p99")]
            cells += [rate_of(other), f"{other['p50']:.1f}"]
            rows.append(cells)
    heads = ("what, clients", "a second", "p50", "p95", "p99", "with 2 workers: a second", "p50")
    return "\n".join(
        [
            markdown_table(heads, rows),
            "",
            f"Milliseconds. The {results['encoder']} encoder takes {default['encode_p50']:.1f} ms of "
            f"each decision; a chat completion costs {default['overhead']:.1f} ms beyond it and the "
            "upstream's own time.",
        ]
    )


def settings() -> str:
    """Every setting: its variable, its default, its meaning, and its choices if they are few."""
    rows = []
    for name, field in Settings.model_fields.items():
        meaning = re.sub(r"([*|])", r"\\\1", str(field.description))
        if get_origin(field.annotation) is Literal:
            choices = ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
            meaning = f"{meaning.removesuffix('.')}: {choices}."
        variable = f"{PREFIX}{name}".upper()
        rows.append((f"`{variable}`", default_of(name, field), meaning))
    return markdown_table(("variable", "default", "meaning"), rows)


def default_of(name: str, field: FieldInfo) -> str:
    """A setting's default, as a reader would write it."""
    match field.get_default(call_default_factory=True, validated_data={}):
        case None | "":
            return "none"
        case Path() as path:
            return f"`~/{path.relative_to(Path.home())}`"
        case str() as text:
            return f"`{text}`"
        case number if name.endswith("_bytes"):
            return f"{number // 2**20} MiB"
        case number:
            return f"{number:g}"


def rate_of(row: dict[str, Any]) -> str:
    return f"{row['per_second'][0]:.0f} to {row['per_second'][-1]:.0f}"


def fill(path: Path, tables: dict[str, str]) -> None:
    """Replace what stands between the marks in a file by the tables, by mark."""
    text = path.read_text()
    for mark, table in tables.items():
        start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        before, opening, rest = text.partition(start)
        _, closing, after = rest.partition(end)
        if not opening or not closing:
            raise SystemExit(f"{path.relative_to(ROOT)} lacks the marks {start} and {end}")
        text = f"{before}{start}\n{table}\n{end}{after}"
    path.write_text(text)


def main() -> None:
    fill(ROOT / "README.md", {"headline": headline()})
    fill(
        ROOT / "docs" / "results.md",
        {
            "routing": "\n\n".join(map(routing, SETS)),
            "one pass": one_pass(),
            "serving": serving(),
            "load": load(),
        },
    )
    fill(ROOT / "docs" / "operations.md", {"settings": settings()})


if __name__ == "__main__":
    main()
