"""Digits of ratios."""

import pytest

from normbench.analysis.cells import ratio_digits


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ([1.0017], "1.002"),
        ([0.9993], "0.99930"),
        ([12.34], "12.3"),
        ([1.0], "1"),
        ([0.9991, 0.9982, 1.0], "0.9991"),
        ([1.2097, 1.2081, 1.2113], "1.210"),
        ([12.3, 8.1, 19], "12.3"),
        ([float("inf")], "inf"),
    ],
)
def test_as_many_digits_as_tell_a_ratio_from_one_and_an_interval_s_ends_apart(ratios, told):
    assert f"{ratios[0]:{ratio_digits(*ratios)}}" == told
