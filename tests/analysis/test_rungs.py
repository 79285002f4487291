"""Halving: what a plan may be, which rates go on, and the rate that is chosen."""

import numpy as np
import pandas as pd
import pytest
from test_tables import section, table

from normbench.analysis.rates import rates
from normbench.analysis.rungs import HALVING, beyond, parse_rungs, ranked
from normbench.analysis.statistics import within_error
from normbench.analysis.tables import summary
from normbench.errors import InputError, UserError


def test_a_plan_is_a_list_of_rungs_with_their_rates_and_keys():
    assert parse_rungs("lr", None) == parse_rungs(HALVING, None) == parse_rungs(None, None) == ()
    [rung] = parse_rungs(HALVING, [{"rates": 3, "epochs": 2, "data.train_size": 64}])
    assert (rung.rates, rung.keys) == (3, {"epochs": 2, "data.train_size": 64})


@pytest.mark.parametrize(
    ("tunes", "rungs", "said"),
    [
        ("rate", None, r"tunes=rate: choices: lr, \{lr: halving\}"),
        ({"lr": "thirds"}, None, "tunes="),
        ("lr", [{"rates": 3}], "rungs=.*add tunes:"),
        (HALVING, [], "must be a list of rungs"),
        (HALVING, {"rates": 3}, "must be a list of rungs"),
        (HALVING, [3], "how many rates it takes"),
        (HALVING, [{"epochs": 3}], "how many rates it takes"),
        (HALVING, [{"rates": 0}], "how many rates it takes"),
        (HALVING, [{"rates": 2, "seed": 5}], r"rungs\.seed=5: follows from the rungs before"),
        (HALVING, [{"rates": 2, "optim.lr": 0.1}], r"rungs\.optim\.lr=0\.1"),
    ],
)
def test_what_is_no_plan_is_one_line(tunes, rungs, said):
    with pytest.raises(InputError, match=said):
        parse_rungs(tunes, rungs)


def test_the_best_rates_come_first_and_one_at_the_edge_has_one_beyond():
    scores = {0.1: [50, 52], 0.2: [51, 51], 0.4: [40, 45]}
    assert ranked(scores) == [0.1, 0.2, 0.4]  # equal means: the lower rate
    assert beyond(scores, 2.0) == 0.05
    assert beyond({**scores, 0.4: [60, 60]}, 2.0) == 0.8
    assert beyond({**scores, 0.2: [60, 60]}, 2.0) is None
    assert beyond({0.1: [50]}, 2.0) is None  # of one there is no edge


def test_the_rate_is_the_lowest_within_one_standard_error_of_the_best():
    grid, scores = np.repeat([0.1, 0.2, 0.4], 3), np.array([50, 53, 52, 54, 52, 53.5, 53, 55, 54])
    chosen, error = within_error(pd.Series(scores), pd.Series(grid))
    assert error == pytest.approx(np.std(scores[6:], ddof=1) / np.sqrt(3), rel=1e-12)  # 0.58 points
    assert chosen == 0.4  # 0.2 is 0.83 points below
    assert within_error(pd.Series(scores + 0.3 * (grid == 0.2)), pd.Series(grid)) == (0.2, error)
    assert within_error(pd.Series([1.0, 5.0, 4.9]), pd.Series([0.1, 0.2, 0.4])) == (0.2, 0.0)  # no error of one score


def halved():
    """Two batch sizes; of size 8 the longer rung has another best rate than the first, of size 2 it is at the edge."""
    cells = {
        (2, 1): {0.1: [30], 0.2: [35], 0.4: [40], 0.8: [45]},
        (2, 2): {0.4: [50, 52], 0.8: [60, 62]},
        (8, 1): {0.1: [30], 0.2: [45], 0.4: [40], 0.8: [10]},
        (8, 2): {0.1: [40, 40], 0.2: [50, 52], 0.4: [50, 54]},
    }
    tables = [
        table("batch", list(map(float, values)), lr=lr, test_acc=np.nan).assign(batch_size=size, rung=rung)
        for (size, rung), by_rate in cells.items()
        for lr, values in by_rate.items()
    ]
    return pd.concat(tables, ignore_index=True).assign(stats_batch=np.nan)


def test_the_last_rung_alone_chooses():
    found = rates(halved(), "sqrt").set_index("batch_size")
    assert found["lr"].to_dict() == {2: 0.8, 8: 0.2}  # 51 is within √2·2/√2 of 52
    assert found["best"].to_dict() == {2: 0.8, 8: 0.4}
    assert found["error"].to_dict() == pytest.approx({2: 1.0, 8: 2.0})
    assert found["edge"].to_dict() == {2: "highest", 8: "highest"}
    assert found["rates"].to_dict() == {2: 4, 8: 4}
    assert set(found["n"]) == {2}
    assert set(found["lr_scaling"]) == {"sqrt"}
    _, _, rows = section(summary("mine", "", halved(), []), "Tuned rates")
    assert [row[:3] for row in rows] == [["batch", "2", "0.8"], ["batch", "8", "0.2"]]


def test_an_arm_that_is_not_through_has_no_rate():
    runs = halved()
    runs.loc[(runs["batch_size"] == 8) & (runs["rung"] == 2) & (runs["lr"] == 0.4), "status"] = "missing"
    assert list(rates(runs)["batch_size"]) == [2]
    runs["status"] = runs["status"].where(runs["rung"] == 1, "missing")
    with pytest.raises(UserError, match="no rate can be chosen"):
        rates(runs)
    assert "No arm is through" in summary("mine", "", runs, [])
