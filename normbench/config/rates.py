"""The tuned learning rates of a table, what `optim.lr=tuned` stands for; and how a rate follows the batch size."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from normbench.config.files import conf_dir
from normbench.config.values import value_at
from normbench.errors import InputError
from normbench.facts import facts_of, scaled_momentum

OPTIONS = ("norm.", "model.")  # begin the columns of a table with the options that tell its arms apart
BETWEEN = "{:.4g}"  # a rate between two of a table: as many digits as are the same on every machine


def scaled_lr(lr: float, batch_size: int, scaling: str) -> float:
    """The peak rate at a batch size, from that at 128: linear (Goyal et al. 2017, arXiv 1706.02677), sqrt or none."""
    ratio = batch_size / 128
    return lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[scaling]


@dataclass(frozen=True)
class Row:
    """A rate of a table, in the unit of optim.lr.

    arm: model, optimizer and method. options: key → value of the method's and the model's that it is of, where
    a table has several.
    batch_size: that it was tuned at, with this lr_scaling; None: of all sizes.
    """

    arm: tuple[str, str, str]
    lr: float
    options: Mapping[str, str]
    batch_size: int | None
    lr_scaling: str

    def rate(self, config) -> float:
        """The same rate of a step at its batch size, in the unit that optim.lr has in a configuration."""
        if self.batch_size is None or self.lr_scaling == config.lr_scaling:
            return self.lr
        unit = scaled_lr(1.0, self.batch_size, config.lr_scaling)
        return scaled_lr(self.lr, self.batch_size, self.lr_scaling) / unit

    def alike(self, config, but: str | None) -> bool:
        """Whether it is of the options that a configuration has, all `but` one."""
        return all(self._same(value, value_at(config, key)) for key, value in self.options.items() if key != but)

    def _same(self, cell: str, value) -> bool:
        if value == "scaled":  # a momentum that is another number at every size
            images = facts_of(self.arm[2]).images_option
            value = scaled_momentum(int(self.options.get(f"norm.{images}") or self.batch_size or 128))
        try:
            return math.isclose(float(cell), float(value), rel_tol=1e-9)
        except (TypeError, ValueError):
            return cell == str(value)


def tuned_rate(config) -> float:
    """The rate of a configuration's method in its table of tuned rates, which `scripts/table.py tune_lr` writes.

    Or of the method that optim.rates_of names. The table lies in the working directory or else in the project. A method
    that is another one over other groups of images (`rate_of`) takes the rate of that where it has none of its own. Of
    one that was tuned at several batch sizes, or over groups of several sizes, the logarithm of the rate is linear in
    that of the size between them; of one alone, the rate holds for all. Raises InputError where the table has none.
    """
    path, method, size = config.optim.rates, config.optim.rates_of or config.norm.name, config.batch_size
    file = next((f for f in (Path(path), conf_dir().parent / path) if f.is_file()), None)
    if file is None:
        raise InputError(
            "optim.rates", path, "no such table; make study STUDY=tune_lr writes it, or give optim.lr a number"
        )
    rows = _rates(file, file.stat().st_mtime_ns)
    if not rows:
        raise InputError("optim.rates", path, "no table of rates: one row a model, optimizer and method, with its lr")
    facts = facts_of(method)
    option = facts.images_option and f"norm.{facts.images_option}"
    own, base = (_of(rows, config, name, option) for name in (method, facts.rate_of))
    grouped = [row for row in own if option in row.options]
    if here := [row for row in grouped if row.batch_size in (None, size)]:
        # A group of the whole batch is the other method.
        pairs = [(row.batch_size, row) for row in base if row.batch_size == size]
        pairs += [(int(row.options[option]), row) for row in here]
        points = {images: row.rate(config) for images, row in pairs}
        return _between(points, option, value_at(config, option), file)
    whole = [row for row in own if row not in grouped] or base
    points = {row.batch_size: row.rate(config) for row in whole}
    if not points:
        raise InputError("optim.lr", "tuned", f"{file} has no rate for {_wanted(config, method, rows)}")
    return _between(points, "batch_size", size, file)


def _of(rows: Iterable[Row], config, method: str | None, but: str | None) -> list[Row]:
    """The rows of a method, with the model, optimizer and options of a configuration."""
    arm = (config.model.name, config.optim.name, method)
    return [row for row in rows if row.arm == arm and row.alike(config, but)]


def _wanted(config, method: str, rows: Iterable[Row]) -> str:
    """What a table lacks, and what it has."""
    arm = (config.model.name, config.optim.name, method)
    there = [row for row in rows if row.arm == arm]
    asked = {key: value_at(config, key) for row in there for key in row.options}
    words = "".join(f" {key}={value}" for key, value in asked.items())
    arms = dict.fromkeys("/".join(row.arm) + "".join(f" {k}={v}" for k, v in row.options.items()) for row in rows)
    return f"{'/'.join(arm)}{words}; it has {', '.join(sorted(arms))}"


def _between(points: Mapping[int | None, float], key: str, size: int, file: Path) -> float:
    """The rate at a size, by those at others. Raises InputError for one beyond them."""
    if len(points) == 1:
        return next(iter(points.values()))
    if size in points:
        return points[size]
    below, above = [x for x in points if x < size], [x for x in points if x > size]
    if not (below and above):
        wrong = f"{file} has rates for {min(points)} to {max(points)}: take one of those, or give optim.lr a number"
        raise InputError(key, size, wrong)
    low, high = max(below), min(above)
    share = math.log(size / low) / math.log(high / low)
    return float(BETWEEN.format(points[low] ** (1 - share) * points[high] ** share))


@lru_cache(maxsize=16)
def _rates(file: Path, written: int) -> tuple[Row, ...]:
    """The rows of a table; none for what is no table of rates, or names one twice."""
    with open(file, newline="", encoding="utf-8") as lines:
        given = list(csv.DictReader(lines))
    try:
        rows = tuple(map(_row, given))
    except (KeyError, TypeError, ValueError):
        return ()
    return rows if len({(row.arm, *row.options.items(), row.batch_size) for row in rows}) == len(rows) else ()


def _row(cells: Mapping[str, str]) -> Row:
    options = {key: value for key, value in cells.items() if key and key.startswith(OPTIONS) and value}
    size = cells.get("batch_size")
    arm = (cells["model"], cells["optimizer"], cells["method"])
    return Row(arm, float(cells["lr"]), options, int(size) if size else None, cells.get("lr_scaling") or "linear")
