"""What so many seeds can show, against statsmodels and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from normbench.analysis.claims import decide
from normbench.analysis.foresight import foresight
from normbench.analysis.power import detectable, equivalent, like
from normbench.analysis.statistics import Mean
from normbench.analysis.study import Study
from normbench.cli import power
from normbench.errors import UserError


@pytest.mark.parametrize("n", [3, 5, 20])
def test_what_a_t_test_detects_is_statsmodels(n):
    sd = 1.7
    mean = Mean(0.0, sd / math.sqrt(n), n - 1, n)
    expected = TTestPower().solve_power(None, nobs=n, alpha=0.05, power=0.8) * sd
    assert detectable(mean) == pytest.approx(expected, rel=1e-3)
    assert detectable(mean, alpha=0.01) > detectable(mean) > detectable(mean, power=0.5)


def test_what_is_equal_is_put_within_the_margin_as_often():
    n, margin = 6, equivalent(Mean(0.0, 1 / math.sqrt(6), 5, 6))
    x = np.random.default_rng(0).standard_normal((20000, n))
    half = x.std(1, ddof=1) / math.sqrt(n) * stats.t.isf(0.025, n - 1)
    assert (np.abs(x.mean(1)) + half < margin).mean() == pytest.approx(0.8, abs=0.01)


def test_more_seeds_of_the_same_spread():
    few = Mean.of(np.random.default_rng(1).normal(0, 2, 5))
    many = like(few, 20)
    assert (many.se, many.df, many.n) == (pytest.approx(few.se / 2), 19, 20)
    for nothing in ([1.0, 1.0], [1.0]):
        assert math.isnan(detectable(Mean.of(nothing)))


# --- Before the runs --------------------------------------------------------------------------------------------------

CELLS = {"a": {"method": "group"}, "b": {"method": "batch"}}
SAID = {"statement": "It is so.", "source": "Someone 2020"}
FILE = {
    "replicates": 5,
    "claims": [
        SAID | CELLS | {"name": "above", "kind": "difference", "direction": "greater", "margin": 0},
        SAID | CELLS | {"name": "alike", "kind": "equivalence", "margin": 3},
        SAID | {"name": "half", "kind": "share", "a": {"method": "group"}, "direction": "less", "level": 50},
    ],
}


def study(tmp_path, name="it", file=FILE, spread=1.0):
    values = np.random.default_rng(2).normal(50, spread, (2, 5))
    rows = [
        {"run_id": method, "seed": seed, "method": method, "status": "finished", "test_acc": value, "val_acc": 1.0}
        for method, row in zip(("group", "batch"), values, strict=True)
        for seed, value in enumerate(row)
    ]
    made = Study(name, tmp_path, file)
    vars(made)["runs"] = pd.DataFrame(rows)  # as it would be read
    return made, values


def test_a_study_is_foreseen_by_its_own_runs_as_its_verdicts_have_it(tmp_path):
    made, _ = study(tmp_path)
    above, alike, _ = decide(made.claims, made.runs)
    rows = [row.split(" | ") for row in foresight(made, made).splitlines()[4:]]
    assert [row[2] for row in rows] == [f"{above.detectable:.2f}", f"{alike.detectable:.2f}", "–"]
    assert above.detectable == pytest.approx(detectable(Mean.of(np.subtract(*study(tmp_path)[1]))))
    assert foresight(made, made).splitlines()[2] == "| claim | margin | n = 5 | n = 10 | n = 20 |"


def test_a_study_is_foreseen_by_the_spread_of_another(tmp_path):
    other, values = study(tmp_path, "other", spread=3)
    mine = Study("it", tmp_path, FILE | {"looks": [4, 8]})
    sd = math.sqrt(values.var(axis=1, ddof=1).mean())
    text = foresight(mine, other)
    assert f"| above | 0 | {detectable(Mean(0, sd * math.sqrt(2 / 4), 3, 4)):.2f} |" in text
    assert text.splitlines()[2] == "| claim | margin | n = 4 | n = 8 |"


def test_what_cannot_be_foreseen_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^--seeds=5,1: must be numbers of seeds from 2 on"):
        power(["batch_size", "--seeds", "5,1"])
    with pytest.raises(UserError, match="it: a study without claims"):
        foresight(Study("it", tmp_path, {}), study(tmp_path)[0])
