"""The tuned learning rates of a table: what `optim.lr=tuned` stands for."""

import csv
from functools import lru_cache
from pathlib import Path

from normbench.config.files import conf_dir
from normbench.errors import InputError
from normbench.facts import facts_of


def tuned_rate(path: str, model: str, optimizer: str, method: str) -> float:
    """The rate of a method in a table of tuned rates, which `scripts/table.py tune_lr` writes.

    path: relative to the working directory or else to the project. A method that is another one over other groups of
    images (`rate_of`) takes the rate of that. Raises InputError where the table has none.
    """
    file = next((f for f in (Path(path), conf_dir().parent / path) if f.is_file()), None)
    if file is None:
        raise InputError(
            "optim.rates", path, "no such table; make study STUDY=tune_lr writes it, or give optim.lr a number"
        )
    rates = _rates(file, file.stat().st_mtime_ns)
    if not rates:
        raise InputError("optim.rates", path, "no table of rates: one row a model, optimizer and method, with its lr")
    wanted = (model, optimizer, facts_of(method).rate_of or method)
    if wanted not in rates:
        known = ", ".join("/".join(key) for key in sorted(rates))
        raise InputError("optim.lr", "tuned", f"{file} has no rate for {'/'.join(wanted)}; it has {known}")
    return rates[wanted]


@lru_cache(maxsize=16)
def _rates(file: Path, written: int) -> dict[tuple[str, str, str], float]:
    """(model, optimizer, method) → rate; empty for what is no table of rates, or names one twice."""
    with open(file, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    try:
        rates = {(row["model"], row["optimizer"], row["method"]): float(row["lr"]) for row in rows}
    except (KeyError, TypeError, ValueError):
        return {}
    return rates if len(rates) == len(rows) else {}
