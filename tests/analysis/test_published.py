"""Published figures beside a study's own: from its file to the table; the figure has its own tests."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from normbench.analysis.published import beside, parse_published
from normbench.errors import InputError

ENTRY = {
    "source": "Somebody 2018, table 3",
    "label": "ImageNet",
    "where": {"method": "batch"},
    "over": "batch_size",
    "values": [[2, 65.3], [4, 72.7]],
}


def runs(values=(60.0, 61.0, 62.0)):
    row = {"run_id": "r", "method": "batch", "batch_size": 2, "status": "finished"}
    return pd.DataFrame([row | {"seed": seed, "test_acc": value} for seed, value in enumerate(values)])


def test_each_figure_stands_beside_the_runs_of_its_cell():
    *_, first, second = beside(parse_published([ENTRY]), runs()).splitlines()
    assert first == "| Somebody 2018, table 3 | method=batch batch_size=2 | 65.30 | 3 | 61.00 ± 2.48 |"
    assert second == "| Somebody 2018, table 3 | method=batch batch_size=4 | 72.70 | 0 | – |"
    assert "60.00, 61.00 |" in beside(parse_published([ENTRY]), runs((60.0, 61.0)))
    assert beside(parse_published(None), runs()) == ""


def test_ratios_stand_beside_those_of_the_curves():
    """Of three pairs of runs the fast one takes 100 steps to the slow ones' mean best, 40, and these 400 or never."""
    of = {"fast": [[41, 60, 50 + seed] for seed in range(3)], "slow": [[10, 20, 39 + seed] for seed in range(3)]}
    rows = [
        {"run_id": name, "arm": name, "model": "m", "seed": seed, "status": "finished", "val_acc": scores[-1]}
        for name, runs in of.items()
        for seed, scores in enumerate(runs)
    ]
    curves = [
        {"run_id": name, "seed": seed, "epoch": 1, "step": 100 * 2**at, "val_acc": score}
        for name, runs in of.items()
        for seed, scores in enumerate(runs)
        for at, score in enumerate(scores)
    ]
    how = {"source": "S", "label": "L", "where": {"model": "m"}, "over": "arm", "reference": {"arm": "slow"}}
    entries = [how | {"values": [["fast", 2.33]], "ratio": ratio} for ratio in ("steps", "best")]
    *_, steps, best = beside(parse_published(entries), pd.DataFrame(rows), pd.DataFrame(curves)).splitlines()
    assert steps.startswith(
        "| S | model=m arm=fast, times fewer steps than arm=slow | 2.33 | 3 | 6 ["
    )  # the middles: 300 over 50
    ratio = 60 / np.array([39, 40, 41])
    mean, half = np.log(ratio).mean(), stats.sem(np.log(ratio)) * stats.t.ppf(0.975, 2)
    middle, low, high = (f"{np.exp(value):.4g}" for value in (mean, mean - half, mean + half))
    assert best.endswith(f"best score over that of arm=slow | 2.33 | 3 | {middle} [{low}, {high}] |")
    *_, none = beside(parse_published(entries), pd.DataFrame(rows)).splitlines()
    assert none.endswith("| 2.33 | 0 | – |")


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({}, "published={}: must be a list"),
        (["a"], "published[0]=a: must have source, label, where"),
        ([ENTRY | {"ratio": "steps"}], "published[0].ratio=steps: is given with reference, which is missing"),
        ([ENTRY | {"ratio": "step", "reference": {"method": "none"}}], "published[0].ratio=step: did you mean steps"),
        ([ENTRY | {"value": 1}], "published[0].value=1: unknown key; did you mean values? choices: label, metric"),
        ([ENTRY, ENTRY | {"values": [2, 65]}], "published[1].values=[2, 65]: must be like [[2, 65.3], [4, 72]]"),
        ([ENTRY | {"values": [[2, "65"]]}], "published[0].values=[[2, 65]]: must be like"),
        ([{key: value for key, value in ENTRY.items() if key != "over"}], "published[0].over=null: must be a name"),
        ([ENTRY | {"where": {}}], "published[0].where={}: must be a cell"),
    ],
)
def test_a_mistake_is_one_line(entries, told):
    with pytest.raises(InputError) as error:
        parse_published(entries)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_cell_of_several_runs_of_a_seed_is_a_mistake():
    twice = pd.concat([runs(), runs().assign(run_id="other")])
    with pytest.raises(InputError, match=r"^published\[0\].where=.*several runs with seed 0: r, other"):
        beside(parse_published([ENTRY]), twice)
    with pytest.raises(InputError, match=r"^published\[0\].where.epochs=10: the table has no such column"):
        beside(parse_published([ENTRY | {"where": {"epochs": 10}}]), runs())
