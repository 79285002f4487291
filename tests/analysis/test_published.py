"""Published figures beside a study's own: from its file to the table; the figure has its own tests."""

import pandas as pd
import pytest

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


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({}, "published={}: must be a list"),
        (["a"], "published[0]=a: must have source, label, where"),
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
