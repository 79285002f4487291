"""Values in words."""

import numpy as np
import pandas as pd
import pytest

from normbench.words import duration, markdown, typed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (128.0, "128"),
        (128, "128"),
        (5_000_000, "5000000"),
        (1e-6, "1e-06"),
        (0.30000000000000004, "0.3"),
        (np.float64(2.5), "2.5"),
        (np.int64(3), "3"),
        (None, "null"),
        (float("nan"), "null"),
        (pd.NA, "null"),
        (True, "true"),
        (np.bool_(False), "false"),
        ("two\n words", "two words"),
        ("nan", "nan"),
        ([0.5, None, "a"], "[0.5, null, a]"),
        ({"method": ["batch", "none"], "lr": 0.1}, "{method: [batch, none], lr: 0.1}"),
    ],
)
def test_a_value_is_written_as_it_is_typed(value, expected):
    assert typed(value) == expected


def test_an_empty_cell_of_a_table():
    assert [typed(value, empty="–") for value in (None, float("nan"), pd.NA, 0)] == ["–", "–", "–", "0"]


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")])
def test_a_duration(seconds, expected):
    assert duration(seconds) == expected


def test_a_table_keeps_its_cells_apart():
    assert markdown(["a", "b"], "lr", [["x|y", "1\n2"]]) == "| a | b |\n| --- | ---: |\n| x y | 1 2 |"
