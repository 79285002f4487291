"""What is known of each method on one card: its formula and paper, what it costs, and what the studies found of it.

Costs are those of results/benchmark/layers.csv; findings the verdicts in results/STUDY/summary.md on claims of which
some cell names the method. Where a table is missing a card says so.
"""

import csv
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"
CELL = re.compile(r"(?<!\\)\|")  # between two cells of a table in Markdown


def costs(method: str) -> dict[str, tuple[str, str, str]]:
    """Shape of the input → milliseconds, and time and kept memory over batch's."""
    path = RESULTS / "benchmark" / "layers.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == method]
    return {
        row["shape"]: (
            f"{float(row['ms']):.2f}",
            *(f"{float(row[key]):.2f}" for key in ("over_batch", "kept_over_batch")),
        )
        for row in rows
    }


def findings(method: str) -> list[str]:
    """A line a claim that names the method, study by study: its verdict, the statement, the estimate and n."""
    return [line for named, line in _verdicts(RESULTS) if method in named]


@cache
def _verdicts(results: Path) -> list[tuple[set[str], str]]:
    """The methods that a claim names, and what is told of it, in the order of the summaries."""
    found = []
    for path in sorted(results.glob("*/claims.json")):
        study, summary = path.parent.name, path.with_name("summary.md")
        claims = [claim["text"] for claim in json.loads(path.read_text("utf-8")).values()]
        for told, how, estimate, _, n, _, verdict, *_ in _rows(summary.read_text("utf-8")) if summary.exists() else []:
            text = next((text for text in claims if _is(text, told, how)), None)
            if text is not None and "not enough" not in verdict:
                claims.remove(text)  # some statements stand twice
                line = f"{verdict}, [{study}](../results/{study}/summary.md): {text['statement']} ({how})"
                found.append((set(_named(text)), f"{line}: {estimate}, n = {n}"))
    return found


def _is(text: dict, told: str, how: str) -> bool:
    """Whether a row of a summary, by its first two cells, is of that claim."""
    stated = told.removeprefix("**primary:** ").startswith(f"{text['statement']} ({text['source']}")
    kind, _, metric = how.partition(", ")
    return stated and (kind, metric) == (text["kind"], text.get("metric", metric))


def _rows(summary: str) -> list[list[str]]:
    """The cells of its table of claims."""
    _, _, after = summary.partition("\n## Claims\n")
    lines = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in CELL.split(line)[1:-1]] for line in lines]


def _named(text) -> Iterator[str]:
    """The methods in the cells of a claim."""
    if isinstance(text, dict):
        for key, value in text.items():
            if key == "method":
                yield from [value] if isinstance(value, str) else value
            else:
                yield from _named(value)
