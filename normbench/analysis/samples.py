"""What a kind of claims is given to decide by: the values of its cells, and the curves of their trainings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from normbench.analysis.censored import Steps, steps_to
from normbench.analysis.evidence import Cell
from normbench.analysis.statistics import ROUNDING, Mean
from normbench.errors import UserError


@dataclass(frozen=True)
class Sample:
    """values: (seeds, cells), with gaps; their logarithms where scale is log. cells: of the same keys.

    levels: column → the levels that the cells go over. paired: by seed. level: of intervals. curves: of the study.
    """

    values: pd.DataFrame
    cells: dict[object, Cell]
    levels: dict[str, list]
    metric: str
    scale: str = "linear"
    paired: bool = True
    level: float = 0.95
    curves: pd.DataFrame | None = None

    @property
    def x(self) -> pd.DataFrame:
        """The seeds that all cells have."""
        return self.values.dropna()

    def own(self, key) -> np.ndarray:
        """The values of one cell, whatever the others have: of the paired seeds where they are paired."""
        return (self.x if self.paired else self.values)[key].dropna().to_numpy()

    @property
    def n(self) -> int:
        """Seeds: paired, or of the cell that has fewest."""
        return min((len(self.own(key)) for key in self.values), default=0)

    @property
    def censored(self) -> int:
        """How many of the values are only bounds."""
        return sum(
            int(cell.censored.reindex(self.values[key].dropna().index).sum()) for key, cell in self.cells.items()
        )

    # --- One weighted sum of the cells. -------------------------------------------------------------------------------

    def contrast(self, weights: Mapping) -> np.ndarray:
        """Σ w · value, a number a seed: (n,)."""
        x = self.x[list(weights)].to_numpy()
        w = np.array(list(weights.values()), dtype=float)
        if abs(w.sum()) < ROUNDING:  # without the common level what is equal comes to exactly 0
            x = x - x[:, :1]
        return x @ w

    def mean(self, weights: Mapping) -> Mean:
        """Its mean: of the paired numbers, or of samples that share nothing."""
        if self.paired:
            return Mean.of(self.contrast(weights))
        return Mean.welch([self.own(key) for key in weights], list(weights.values()))

    def pairing_ratio(self, weights: Mapping) -> float:
        """Variance of the paired numbers over the sum of their terms' variances: 1 where pairing bought nothing."""
        x = self.x[list(weights)]
        if len(weights) < 2 or len(x) < 2:
            return math.nan
        terms = (x.var() * np.square(list(weights.values()))).sum()
        return float(np.var(self.contrast(weights), ddof=1) / terms) if terms > 0 else math.nan

    # --- Steps to a target. -------------------------------------------------------------------------------------------

    def steps(self, key) -> Steps:
        """Of an outcome that counts steps and says where it is only a bound."""
        steps = self.values[key].dropna()
        bound = self.cells[key].censored.reindex(steps.index).fillna(False).astype(bool)
        end = float(steps[bound].min()) if bound.any() else math.inf
        return Steps(steps.to_numpy(), steps.where(~bound, math.inf).to_numpy(), end)

    @property
    def unit(self) -> str:
        """Of the steps of the curves."""
        return "steps" if self.curves is not None and "step" in self.curves else "epochs"

    def _courses(self, key) -> list[pd.Series]:
        """Score by step, of each replicate of a cell that is over."""
        if self.curves is None:
            raise UserError("curves.csv: not there; a claim of the kind speedup needs it")
        place = "step" if "step" in self.curves else "epoch"
        cell, seeds = self.cells[key], self.values[key].dropna().index
        found = self.curves[self.curves.run_id.isin(cell.runs.unique())].dropna(subset=[self.metric, place])
        by_replicate = dict(iter(found.groupby(["run_id", "seed"])))
        courses = [by_replicate.get((cell.runs[seed], seed)) for seed in seeds]
        return [
            pd.Series(dtype=float) if rows is None else rows.set_index(place)[self.metric].astype(float).sort_index()
            for rows in courses
        ]

    def best_scores(self, key) -> pd.Series:
        """The highest point of each replicate's curve, by seed."""
        return pd.Series([course.max() for course in self._courses(key)], self.values[key].dropna().index, dtype=float)

    def best_score(self, key) -> float:
        """The highest point of the mean curve of a cell; NaN without any."""
        courses = self._courses(key)
        return float(pd.concat(courses, axis=1).mean(axis=1).max()) if courses else math.nan

    def steps_to(self, target: float, key) -> Steps:
        """From validation to validation: a replicate that diverged before it got there never does."""
        courses = self._courses(key)
        bounds = [steps_to(target, list(course.index), list(course)) for course in courses]
        end = max((float(course.index.max()) for course in courses if len(course)), default=0.0)
        low, high = np.array(bounds, dtype=float).reshape(-1, 2).T
        return Steps(np.where(np.isfinite(high), low, end), high, end)
