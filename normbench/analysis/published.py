"""Figures from publications beside a study's own: what its file says under `published`, in its summary and its figures.

    published:
      - source: Wu & He 2018, arXiv 1803.08494, table 3
        label: ImageNet, ResNet-50                # a few words, for the figure
        where: {method: batch}                    # the cell of runs.csv that it stands beside, but for
        over: batch_size                          # this column, of whose values it has some
        values: [[2, 65.3], [4, 72.7]]            # each with its figure, in the metric's unit
        metric: test_acc                          # the default

Or, in place of a metric, ratios to what the runs of another cell came to, by the curves of validation scores:

        ratio: steps                              # how many times fewer steps to the best score of the reference; or
                                                  # best: a run's best score over that of the reference's, by seed
        reference: {method: none}

They are of other people's runs, often at another scale: nothing is tested on them.
"""

from dataclasses import dataclass

import pandas as pd

from normbench.analysis import claim_keys, evidence
from normbench.analysis.cells import FEW, told_interval, told_mean
from normbench.analysis.censored import speedup
from normbench.analysis.means import FEWEST
from normbench.analysis.samples import Sample
from normbench.config.checks import Check, is_number, one_of, text
from normbench.errors import InputError, choices_text
from normbench.records.metrics import HEADLINE, OBJECTIVE, outcome_of
from normbench.words import literal, markdown, typed


@dataclass(frozen=True)
class Published:
    """An entry, as its file has it. values: (a value of the column `over`, the figure). reference: with a ratio."""

    source: str
    label: str
    where: dict
    over: str
    values: tuple[tuple[object, float], ...]
    metric: str = HEADLINE
    ratio: str | None = None
    reference: dict | None = None


RATIO_WORDS = {"steps": "times fewer steps than", "best": "best score over that of"}  # the reference
RATIO_DIGITS = ".4g"


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
}
OPTIONAL: dict[str, Check] = {"metric": text, "ratio": one_of(RATIO_WORDS), "reference": claim_keys.cell}


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
    known = CHECKS | OPTIONAL
    for key in entry:
        if key not in known:
            raise InputError(f"{place}.{key}", typed(entry[key]), f"unknown key; {choices_text(key, known)}")
    for key, check in known.items():
        wrong = check(entry.get(key)) if key in entry or key in CHECKS else None
        if wrong:
            raise InputError(f"{place}.{key}", typed(entry.get(key)), wrong)
    if ("ratio" in entry) != ("reference" in entry):
        there, missing = sorted({"ratio", "reference"}, key=entry.__contains__, reverse=True)
        raise InputError(f"{place}.{there}", typed(entry[there]), f"is given with {missing}, which is missing")
    return Published(**entry | {"values": tuple(map(tuple, entry["values"]))})


def beside(entries: tuple[Published, ...], runs: pd.DataFrame, curves: pd.DataFrame | None = None) -> str:
    """Markdown: each published figure, and what the runs of its cell came to here; empty without entries.

    curves: what ratios are read from.
    Raises InputError for a column that is not there, and for a cell of several runs of one seed.
    """
    rows = []
    for number, entry in enumerate(entries):
        digits = outcome_of(entry.metric).digits if entry.ratio is None else RATIO_DIGITS
        for value, figure in entry.values:
            settings = entry.where | {entry.over: value}
            words = _words(settings)
            n, told = _here(f"published[{number}]", entry, settings, words, runs, curves)
            words += f", {RATIO_WORDS[entry.ratio]} {_words(entry.reference)}" if entry.ratio else ""
            rows.append([literal(entry.source), literal(words), f"{figure:{digits}}", str(n), told])
    few = FEW if any(0 < int(row[3]) < FEWEST for row in rows) else ""
    text = (
        "What other people published, in the setting that the source names, and what the runs of these settings came "
        f"to here. Nothing is tested on it.{few}"
    )
    head = ["source", "settings", "published", "n", "here"]
    return f"{text}\n\n{markdown(head, 'llrrr', rows)}" if rows else ""


def _words(settings: dict) -> str:
    return " ".join(f"{column}={typed(value)}" for column, value in settings.items())


def _here(place: str, entry: Published, settings: dict, words: str, runs: pd.DataFrame, curves) -> tuple[int, str]:
    """How many runs of a cell count here, and what they came to."""
    if entry.ratio is None:
        outcome = outcome_of(entry.metric)
        ours = evidence.cell(place, "where", words, settings, entry.metric, runs).values.dropna()
        return len(ours), told_mean(ours, outcome.digits, outcome.scale)
    both = {"a": ("where", settings), "b": ("reference", entry.reference)}
    cells = {name: evidence.cell(place, key, key, cell, OBJECTIVE, runs) for name, (key, cell) in both.items()}
    values = pd.DataFrame({name: cell.values for name, cell in cells.items()}).dropna()
    if values.empty or curves is None:
        return 0, "–"
    sample = Sample(values, cells, {}, OBJECTIVE, curves=curves)
    if entry.ratio == "best":
        return len(values), told_mean(sample.best_scores("a") / sample.best_scores("b"), RATIO_DIGITS, "log")
    a, b = (sample.steps_to(sample.best_score("b"), name) for name in cells)
    return len(values), told_interval(speedup(a, b), RATIO_DIGITS)
