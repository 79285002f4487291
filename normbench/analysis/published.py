"""Figures from publications beside a study's own: what its file says under `published`, in its summary and its figures.

    published:
      - source: Wu & He 2018, arXiv 1803.08494, table 3
        label: ImageNet, ResNet-50                # a few words, for the figure
        where: {method: batch}                    # the cell of runs.csv that it stands beside, but for
        over: batch_size                          # this column, of whose values it has some
        values: [[2, 65.3], [4, 72.7]]            # each with its figure, in the metric's unit
        metric: test_acc                          # the default

They are of other people's runs, often at another scale: nothing is tested on them.
"""

from dataclasses import dataclass

import pandas as pd

from normbench.analysis import claim_keys, evidence
from normbench.analysis.cells import FEW, told_mean
from normbench.analysis.means import FEWEST
from normbench.config.checks import Check, is_number, text
from normbench.errors import InputError, choices_text
from normbench.records.metrics import HEADLINE, outcome_of
from normbench.words import literal, markdown, typed


@dataclass(frozen=True)
class Published:
    """An entry, as its file has it. values: (a value of the column `over`, the figure)."""

    source: str
    label: str
    where: dict
    over: str
    values: tuple[tuple[object, float], ...]
    metric: str = HEADLINE


def _pairs(value) -> str | None:
    def good(one):
        return isinstance(one, list) and len(one) == 2 and isinstance(one[0], str | int | float) and is_number(one[1])

    return None if isinstance(value, list) and value and all(map(good, value)) else "must be like [[2, 65.3], [4, 72]]"


CHECKS: dict[str, Check] = {
    "source": text,
    "label": text,
    "where": claim_keys.cell,
    "over": text,
    "values": _pairs,
    "metric": text,
}


def parse_published(entries: list[dict] | None) -> tuple[Published, ...]:
    """The entries that a study's file has under `published`, None where it has none.

    Raises an InputError that names the entry, key, value and choices.
    """
    entries = [] if entries is None else entries
    if not isinstance(entries, list):
        raise InputError("published", typed(entries), f"must be a list, each with {', '.join(CHECKS)}")
    return tuple(_parse(entry, f"published[{index}]") for index, entry in enumerate(entries))


def _parse(entry, place: str) -> Published:
    if not isinstance(entry, dict):
        raise InputError(place, typed(entry), f"must have {', '.join(CHECKS)}")
    for key in entry:
        if key not in CHECKS:
            raise InputError(f"{place}.{key}", typed(entry[key]), f"unknown key; {choices_text(key, CHECKS)}")
    for key, check in CHECKS.items():
        wrong = check(entry.get(key)) if key in entry or key != "metric" else None
        if wrong:
            raise InputError(f"{place}.{key}", typed(entry.get(key)), wrong)
    return Published(**entry | {"values": tuple(map(tuple, entry["values"]))})


def beside(entries: tuple[Published, ...], runs: pd.DataFrame) -> str:
    """Markdown: each published figure, and what the runs of its cell came to here; empty without entries.

    Raises InputError for a column that is not there, and for a cell of several runs of one seed.
    """
    rows = []
    for number, entry in enumerate(entries):
        outcome = outcome_of(entry.metric)
        for value, figure in entry.values:
            settings = entry.where | {entry.over: value}
            words = " ".join(f"{column}={typed(value)}" for column, value in settings.items())
            ours = evidence.cell(f"published[{number}]", "where", words, settings, entry.metric, runs).values.dropna()
            told = told_mean(ours, outcome.digits, outcome.scale)
            rows.append([literal(entry.source), literal(words), f"{figure:{outcome.digits}}", str(len(ours)), told])
    few = FEW if any(0 < int(row[3]) < FEWEST for row in rows) else ""
    text = (
        "What other people published, in the setting that the source names, and what the runs of these settings came "
        f"to here. Nothing is tested on it.{few}"
    )
    head = ["source", "settings", "published", "n", "here"]
    return f"{text}\n\n{markdown(head, 'llrrr', rows)}" if rows else ""
