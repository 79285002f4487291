"""Claims: what a file may say, and the verdict that a table gives, against scipy and hand calculation."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from normbench.analysis.claims import decide, parse_claims, parse_looks
from normbench.analysis.repeated import bands, beyond, interaction, within
from normbench.analysis.sequential import obrien_fleming, sequential_p
from normbench.errors import InputError, UserError

CHANCE = 10.0
# t = 2√2 on 4 degrees of freedom: p = 0.0474, which stands alone but not as the smaller of two.
BORDERLINE = [0, 1, 2, 3, 4]
CLEAR = [10, 10.1, 10.2, 9.9, 9.8]


def runs(*cells) -> pd.DataFrame:
    """A table of these cells: (settings, values by seed), with status and other columns among the settings."""
    rows = []
    for number, (settings, values) in enumerate(cells):
        for seed, value in values.items() if isinstance(values, dict) else enumerate(values):
            row = {"run_id": f"run{number}", "seed": seed, "method": "batch", "batch_size": 128, "stats_batch": None}
            row |= {"status": "finished" if value is not None else "failed", "test_acc": value, "test_loss": value}
            rows.append(row | {"test_acc_precise": None, "lr": 0.1} | settings)
    return pd.DataFrame(rows).astype({"stats_batch": float, "test_acc_precise": float, "test_acc": float})


def against(contrast, base=50.0, **settings) -> pd.DataFrame:
    """Group and batch at these settings, apart by the contrast; the levels differ from seed to seed."""
    level = base + np.random.default_rng(0).normal(0, 5, len(contrast))
    return runs(({"method": "group"} | settings, level + contrast), ({"method": "batch"} | settings, level))


GIVEN = {
    "level": {"a": {"method": "group"}, "direction": "greater", "level": 52},
    "difference": {"a": {"method": "group"}, "b": {"method": "batch"}, "direction": "greater", "margin": 0},
    "equivalence": {"a": {"method": "group"}, "b": {"method": "batch"}, "margin": 0.5},
    "spread": {"where": {"method": "group"}, "over": "batch_size", "margin": 1.5},
    "trend": {"where": {"method": "batch"}, "over": "stats_batch", "direction": "greater", "margin": 0},
    "recovery": {
        "a": {"batch_size": 2, "metric": "test_acc_precise"},
        "b": {"batch_size": 2},
        "reference": {"batch_size": 128},
        "share": 0.5,
    },
    "interaction": {"where": {"method": "batch"}, "over": ["data.noise", "data.input"]},
    "non_inferiority": {"a": {"method": "group"}, "b": {"method": "batch"}, "margin": 2},
    "share": {"a": {"method": "group"}, "direction": "greater", "level": 50},
    "speedup": {"a": {"method": "fast"}, "b": {"method": "slow"}, "reference": {"method": "slow"}, "margin": 1.5},
    "difference_of_differences": {
        "a": {"data.noise": "none", "data.input": "raw"},
        "b": {"data.noise": "rician", "data.input": "raw"},
        "c": {"data.noise": "none", "data.input": "unit"},
        "d": {"data.noise": "rician", "data.input": "unit"},
        "direction": "greater",
        "margin": 0,
    },
}


def entry(kind="difference", name="it", **changed) -> dict:
    return {"name": name, "statement": "It is so.", "source": "Someone 2020", "kind": kind} | GIVEN[kind] | changed


def verdict_of(claim: dict, table: pd.DataFrame):
    [verdict] = decide(parse_claims([claim]), table)
    return verdict


# --- Difference -------------------------------------------------------------------------------------------------------


def test_a_difference_is_a_paired_t_test():
    contrast = [1.0, 2.5, 2.0, 4.0, 3.5]
    table = against(contrast)
    found = verdict_of(entry(margin=0.5), table)
    a, b = (table.test_acc[table.method == method].to_numpy() for method in ("group", "batch"))
    expected = stats.ttest_rel(a, b)
    ends = expected.confidence_interval(0.95)
    assert (found.name, found.statement, found.source) == ("it", "It is so.", "Someone 2020")
    assert (found.kind, found.metric, found.n, found.margin) == ("difference", "test_acc", 5, 0.5)
    assert [found.estimate, found.low, found.high] == pytest.approx([2.6, ends.low, ends.high])
    assert found.p == found.p_holm == pytest.approx(stats.ttest_1samp(a - b, 0.5).pvalue)
    assert (found.verdict, found.note) == ("holds", "")
    assert math.isnan(found.bca_low)  # of five seeds no bootstrap
    assert (found.tier, found.scale, found.look) == ("secondary", "linear", 0)
    assert found.pairing_ratio == pytest.approx(np.var(contrast) / (np.var(a) + np.var(b)))
    many = verdict_of(entry(), against(np.tile(contrast, 3)))
    assert many.low < many.bca_low < 2.6 < many.bca_high < many.high


def test_a_metric_of_its_own():
    table = against(CLEAR)
    table["test_acc_precise"] = table.test_acc - 20
    assert verdict_of(entry(metric="test_acc_precise"), table).estimate == pytest.approx(10)
    mixed = entry(b={"method": "batch", "metric": "test_acc_precise"})
    assert verdict_of(mixed, table).estimate == pytest.approx(30)


# --- Level ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "verdict"), [("greater", "holds"), ("less", "does not hold")])
def test_a_level_is_a_t_test_of_one_cell(direction, verdict):
    values = np.array([54.0, 54.5, 55.0])
    found = verdict_of(entry("level", direction=direction), runs(({"method": "group"}, values)))
    ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert [found.estimate, found.low, found.high] == pytest.approx([values.mean(), ends.low, ends.high])
    assert found.p == pytest.approx(stats.ttest_1samp(values, 52).pvalue)
    assert (found.margin, found.n, found.verdict) == (52, 3, verdict)


def test_a_level_below_which_nothing_is_sure():
    assert verdict_of(entry("level"), runs(({"method": "group"}, [50.0, 53.0, 55.0]))).verdict == "inconclusive"


# --- The best of several ----------------------------------------------------------------------------------------------


def test_the_best_rate_is_chosen_by_validation():
    table = runs(
        ({"method": "group", "lr": 0.1, "val_acc": 60.0}, [50.0, 51.0, 52.0]),
        ({"method": "group", "lr": 0.4, "val_acc": 61.0}, [40.0, 42.0, 41.0]),
        ({"method": "group", "lr": 1.6, "val_acc": 99.0}, [None, None, None]),  # failed
        ({"method": "batch", "lr": 0.1, "val_acc": 1.0}, [30.0, 31.0, 32.0]),
    )
    found = verdict_of(entry(a={"method": "group", "best": "lr"}, b={"method": "batch", "best": "lr"}), table)
    assert found.estimate == pytest.approx(10)
    assert (
        found.note
        == "a: lr=0.4 is the best of 2 values, the highest of the grid: widen it; b: lr=0.1 is the best value"
    )


def test_a_best_column_that_is_not_there():
    with pytest.raises(InputError, match=r"claims\.it\.a\.best=rate: the table has no such column"):
        verdict_of(entry(a={"method": "group", "best": "rate"}), against([1.0, 2.0, 3.0]).assign(val_acc=1.0))


# --- Equivalence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [
        ([0.1, 0.2, -0.1, 0.0], "holds"),
        ([-0.3, -0.3, -0.3], "holds"),
        ([2.0, 2.1, 1.9], "does not hold"),
        ([-2.0, -2.1, -1.9], "does not hold"),
        ([0.3, 0.9, -0.5], "inconclusive"),
        ([0.5, 0.5, 0.5], "inconclusive"),
    ],
)
def test_verdicts_of_an_equivalence(contrast, expected):
    assert verdict_of(entry("equivalence"), against(contrast)).verdict == expected


def test_p_values_of_an_equivalence():
    inside, outside = np.array([0.1, 0.2, -0.1, 0.0]), np.array([-1.0, -1.6, -0.9, -1.2])
    tests = stats.ttest_1samp(inside, [[-0.5], [0.5]], axis=1)
    two_sided = tests.pvalue
    assert verdict_of(entry("equivalence"), against(inside)).p == pytest.approx(max(two_sided))
    below = stats.ttest_1samp(outside, -0.5, alternative="less").pvalue
    assert verdict_of(entry("equivalence"), against(outside)).p == pytest.approx(2 * below)


# --- Spread -----------------------------------------------------------------------------------------------------------

LEVELS = np.array([60.0, 63.0, 58.0, 61.0, 65.0])
NOISE = {2: [0.1, -0.1, 0.2, 0.0, -0.2], 8: [0.0, 0.1, -0.1, 0.1, 0.0], 32: [-0.1, 0.0, 0.1, -0.2, 0.1]}


def by_batch_size(shifts: dict) -> pd.DataFrame:
    cells = [({"method": "group", "batch_size": b}, LEVELS + NOISE[b] + shift) for b, shift in shifts.items()]
    return runs(*cells, ({"method": "batch", "batch_size": 2}, LEVELS - 40))


def test_a_spread_is_judged_by_bands_and_against_it_by_an_omnibus_test():
    held, refuted, open_ = (
        verdict_of(entry("spread"), by_batch_size({2: 0, 8: 0.3, 32: shift})) for shift in (0.8, 3, 1.5)
    )
    assert [each.verdict for each in (held, refuted, open_)] == ["holds", "does not hold", "inconclusive"]
    x = {shift: np.array([NOISE[2], np.add(NOISE[8], 0.3), np.add(NOISE[32], shift)]).T for shift in (0.8, 3)}
    inside, last = within(x[0.8], 1.5)
    assert held.p == pytest.approx(2 * inside)
    assert [held.estimate, held.low, held.high] == pytest.approx(
        [last.interval.estimate, last.interval.low, last.interval.high]
    )
    assert (held.n, held.note) == (5, "last within: batch_size=32 above batch_size=2, max-t band")
    assert held.high < 1.5
    omnibus, furthest = beyond(x[3], 1.5), bands(x[3])[0].interval
    assert refuted.p == pytest.approx(omnibus.p)
    assert [refuted.low, refuted.high] == pytest.approx([furthest.low, furthest.high])
    assert refuted.note == (
        "furthest apart: batch_size=32 above batch_size=2, max-t band; "
        f"F({omnibus.df[0]:.3g}, {omnibus.df[1]:.3g}) = {omnibus.f:.2f}, Greenhouse–Geisser, beyond the margin"
    )


def test_values_that_a_spread_lists_are_its_cells():
    table = by_batch_size({2: 0, 8: 0.3, 32: 3})
    two = verdict_of(entry("spread", where={"method": "group", "batch_size": [2, 8]}), table)
    assert (two.verdict, two.note) == ("holds", "last within: batch_size=8 above batch_size=2, max-t band")
    gap = verdict_of(entry("spread", where={"method": "group", "batch_size": [2, 8, 64]}), table)
    assert (gap.verdict, gap.n) == ("not enough runs", 0)
    assert "no run of the table has batch_size=64; batch_size=64: no runs; 5 of 5 seeds missing" in gap.note
    lone = verdict_of(entry("spread", where={"method": "batch"}), table)
    assert (lone.verdict, lone.n) == ("not enough runs", 0)
    assert lone.note == "fewer than two values of batch_size"


# --- Trend ------------------------------------------------------------------------------------------------------------


def ghosts(slopes, curve=(0, 0, 0)) -> pd.DataFrame:
    """Batch normalization over 2, 8 and 128 images, with these slopes per doubling, a seed each."""
    shifts = dict(zip((8, 2, 128), curve, strict=True))
    cells = [({"stats_batch": b}, [50 + s * math.log2(b) + shift for s in slopes]) for b, shift in shifts.items()]
    return runs(*cells, ({"method": "group"}, [70.0] * len(slopes)))


def test_a_trend_is_the_least_squares_slope():
    curve = (1.0, -3.0, 2.5)
    expected = stats.linregress([3, 1, 7], [50 + 3 + 1.0, 50 + 1 - 3.0, 50 + 7 + 2.5]).slope
    assert verdict_of(entry("trend", margin=0.5), ghosts([1.0, 1.0, 1.0], curve)).estimate == pytest.approx(expected)


def test_a_trend_without_a_margin_is_pages_test():
    table = runs(
        *[({"stats_batch": b}, np.add(y, [0, 3, -2, 5])) for b, y in ((2, 40), (8, 48), (32, 48.5), (128, 48.2))]
    )
    found = verdict_of(entry("trend"), table)
    x = table.pivot(index="seed", columns="stats_batch", values="test_acc")
    assert found.p == pytest.approx(2 * stats.page_trend_test(x).pvalue)
    assert (found.verdict, found.estimate) == ("holds", pytest.approx(8.2))
    assert found.note == "Page's test; estimate and interval: 128 less 2; isotonic fit: flat at 49.85 from 32 on"
    assert verdict_of(entry("trend", direction="less"), table).verdict == "does not hold"


def test_equal_values_have_no_trend():
    table = runs(*[({"stats_batch": b, "status": "diverged"}, [CHANCE + 0.1] * 5) for b in (2, 4, 8, 16, 64, 128)])
    found = verdict_of(entry("trend"), table)
    assert (found.estimate, found.p, found.verdict) == (0, 1, "inconclusive")


# --- Recovery ---------------------------------------------------------------------------------------------------------


def recovered(gain, deficit) -> pd.DataFrame:
    b = np.array([40.0, 43.0, 38.0, 41.0])[: len(gain)]
    table = runs(({"batch_size": 2}, b), ({"batch_size": 128}, b + deficit))
    table.loc[table.batch_size == 2, "test_acc_precise"] = b + gain
    return table


@pytest.mark.parametrize(
    ("gain", "deficit", "expected", "note"),
    [
        ([8, 8.2, 7.8, 8], [10, 10.1, 9.9, 10], "holds", "recovers 80 % of a deficit of 10.00 [9.87, 10.13]"),
        ([2, 2.2, 1.8, 2], [10, 10.1, 9.9, 10], "does not hold", "recovers 20 % of a deficit of 10.00 [9.87, 10.13]"),
        ([4, 6, 3, 7], [10, 10.1, 9.9, 10], "inconclusive", "recovers 50 % of a deficit of 10.00 [9.87, 10.13]"),
        (
            [8, 8.2, 7.9, 8.1],
            [1, -1, 2, -1],
            "premise not met",
            "no deficit to recover: reference − b is 0.25 [-2.14, 2.64]",
        ),
        (
            [1, 1, 1, 1],
            [0, 0, 0, 0],
            "premise not met",
            "no deficit to recover: reference − b is 0.00 [0.00, 0.00]",
        ),
    ],
)
def test_verdicts_of_a_recovery(gain, deficit, expected, note):
    found = verdict_of(entry("recovery"), recovered(gain, deficit))
    assert (found.verdict, found.note, found.n, found.margin) == (expected, note, 4, 0)
    contrast = np.subtract(gain, np.multiply(deficit, 0.5))
    assert found.estimate == pytest.approx(contrast.mean())
    if expected == "premise not met":
        assert math.isnan(found.p)
        assert math.isnan(found.p_holm)
    else:
        assert found.p == pytest.approx(stats.ttest_1samp(contrast, 0).pvalue)


# --- Interaction, difference of differences ---------------------------------------------------------------------------


def crossed(values, noises=("none", "rician"), inputs=("raw", "unit")) -> pd.DataFrame:
    """Batch normalization at each pair of a noise and an input. values: (seeds, noises, inputs)."""
    values = np.asarray(values)
    return runs(
        *(
            ({"data.noise": noise, "data.input": given}, values[:, i, j])
            for i, noise in enumerate(noises)
            for j, given in enumerate(inputs)
        )
    )


def squared(contrast) -> pd.DataFrame:
    """Two noises and two inputs, each effect of the noise of its own level; their difference is the contrast."""
    levels = np.random.default_rng(1).normal(60, 5, (len(contrast), 2, 2))
    levels[:, 0, 0] += contrast - (levels[:, 0] - levels[:, 1]) @ [1, -1]
    return crossed(levels)


def test_an_interaction_is_one_of_repeated_measures():
    generator = np.random.default_rng(2)
    noises, inputs = ("none", "gaussian", "rician"), ("raw", "unit")
    effects = np.array([[0.0, 0.0], [-4.0, -3.0], [-8.0, -4.0]])
    values = 60 + effects + generator.normal(0, 5, (5, 1, 1)) + generator.normal(0, 0.5, (5, 3, 2))
    found = verdict_of(entry("interaction"), crossed(values, noises, inputs))
    f = interaction(values)
    assert found.p == found.p_holm == pytest.approx(f.p)
    assert (found.verdict, found.n, found.margin) == ("holds", 5, 0)
    # Of the three differences of differences, 1, 4 and 3, that of rician from none; it is 4 larger at raw.
    largest = (values[:, 0, 0] - values[:, 2, 0]) - (values[:, 0, 1] - values[:, 2, 1])
    ends = stats.ttest_1samp(largest, 0).confidence_interval(0.95)
    assert [found.estimate, found.low, found.high] == pytest.approx([largest.mean(), ends.low, ends.high])
    assert found.note == (
        f"F({f.df[0]:.3g}, {f.df[1]:.3g}) = {f.f:.2f}, Greenhouse–Geisser; "
        "estimate and interval: the largest difference of differences, uncorrected, "
        "of data.noise=none above rician at data.input=raw less that at unit"
    )


def test_an_interaction_of_two_by_two_has_one_difference_of_differences():
    contrast = [-4.0, -4.5, -3.0, -4.1]
    both = [entry("interaction"), entry("difference_of_differences", name="same", direction="less")]
    one, other = decide(parse_claims(both), squared(contrast))
    assert (one.estimate, one.low, one.high) == pytest.approx((-other.estimate, -other.high, -other.low))
    assert one.p == pytest.approx(other.p)
    assert one.note.startswith("F(1, 3) = ")
    assert one.note.endswith(
        "; estimate and interval: the difference of differences, "
        "of data.noise=none above rician at data.input=unit less that at raw"
    )
    assert other.p == pytest.approx(stats.ttest_1samp(contrast, 0).pvalue)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([3.0, 3.4, 2.6], "holds"),
        ([0.5, -0.5, 0.1], "inconclusive"),
        ([0, 0, 0], "inconclusive"),
    ],
)
def test_verdicts_of_an_interaction(sizes, expected):
    noise = np.random.default_rng(4).normal(0, 0.2, (3, 2, 2)) if any(sizes) else 0
    values = np.full((3, 2, 2), 50.0) + np.array([0.0, 7.0, -3.0]).reshape(3, 1, 1) + noise
    values[:, 0, 0] += sizes
    found = verdict_of(entry("interaction"), crossed(values))
    assert found.verdict == expected
    assert (found.p_holm <= 0.05) == (expected == "holds")
    if not any(sizes):  # no variance to test against
        assert (found.estimate, found.p, found.note[:12]) == (0, 1, "F(1, 2) = 0.")
        values[:, 0, 0] += 0.5
        settled = verdict_of(entry("interaction"), crossed(values))
        assert (settled.verdict, settled.p) == ("holds", 0)
        assert settled.note.startswith("F(1, 2) = inf,")


def test_an_interaction_after_correction():
    table = squared(BORDERLINE)
    [alone] = decide(parse_claims([entry("interaction")]), table)
    assert alone.p == pytest.approx(stats.ttest_1samp(BORDERLINE, 0).pvalue)
    assert 0.025 < alone.p < 0.05
    assert alone.verdict == "holds"
    first, _ = decide(parse_claims([entry("interaction"), entry("interaction", name="again")]), table)
    assert (first.p_holm, first.verdict) == (pytest.approx(2 * alone.p), "inconclusive")
    assert first.note.endswith("; holds by its own F test, not after Holm's correction over 2 claims")


def test_what_an_interaction_cannot_test():
    table = squared([3.0, 3.4, 2.6, 3.1])
    hole = table.copy()
    hole.loc[(hole["data.noise"] == "rician") & (hole["data.input"] == "unit"), "status"] = "failed"
    found = verdict_of(entry("interaction"), hole)
    assert (found.verdict, found.n) == ("not enough runs", 0)
    assert math.isnan(found.p)
    assert found.note == "data.noise=rician data.input=unit: no values of test_acc; 4 of 4 seeds missing"
    listed = {"method": "batch", "data.noise": ["none", "gaussian"]}
    found = verdict_of(entry("interaction", where=listed), table)
    assert found.verdict == "not enough runs"
    assert "no run of the table has data.noise=gaussian; data.noise=gaussian data.input=raw: no runs" in found.note
    found = verdict_of(entry("interaction"), table[table.seed.isin([1, 2])])
    assert (found.verdict, found.n) == ("not enough runs", 2)
    assert found.note == "a verdict takes 3 seeds that all cells have; there are 2"
    one = verdict_of(entry("interaction"), table[table.seed == 1])
    assert (one.verdict, one.n, one.estimate) == ("not enough runs", 1, pytest.approx(3.4))
    assert math.isnan(one.low)
    flat = verdict_of(entry("interaction"), table[table["data.input"] == "raw"])
    assert (flat.verdict, flat.n, flat.note) == ("not enough runs", 0, "fewer than two values of data.input")
    assert verdict_of(entry("interaction", where={"method": "none"}), table).note == (
        "no run of the table has method=none; fewer than two values of data.noise and of data.input"
    )


def test_levels_that_an_interaction_lists_are_taken_in_their_order():
    values = np.random.default_rng(5).normal(50, 1, (4, 3, 2))
    table = crossed(values, ("none", "gaussian", "rician")).assign(**{"augment.mixup": 0.2})
    where = {"augment.mixup": 0.2, "data.noise": ["rician", "none"], "data.input": ["unit", "raw", "unit"]}
    chosen = verdict_of(entry("interaction", where=where), table)
    without = table[table["data.noise"] != "gaussian"]
    alone = verdict_of(entry("interaction"), without)
    assert (chosen.p, chosen.estimate) == (pytest.approx(alone.p), pytest.approx(alone.estimate))
    assert chosen.note.startswith("F(1, 3) = ")


# --- Options of a claim -----------------------------------------------------------------------------------------------


def test_on_a_log_scale_margin_and_estimate_are_factors():
    table = runs(({"method": "group"}, [100.0, 210.0, 390.0, 1700.0]), ({}, [10.0, 20.0, 40.0, 160.0]))
    found = verdict_of(entry(scale="log", margin=8), table)
    ratio = np.log([10.0, 10.5, 9.75, 10.625])
    ends = stats.ttest_1samp(ratio, 0).confidence_interval()
    assert (found.verdict, found.scale, found.margin) == ("holds", "log", 8)
    assert [found.estimate, found.low, found.high] == pytest.approx(np.exp([ratio.mean(), ends.low, ends.high]))
    assert found.p == pytest.approx(stats.ttest_1samp(ratio, math.log(8)).pvalue)
    level = entry("level", scale="log", level=200, direction="less")
    assert verdict_of(level, table).estimate == pytest.approx(stats.gmean([100, 210, 390, 1700]))
    assert verdict_of(entry("equivalence", scale="log", margin=12), table).verdict == "holds"
    none = verdict_of(entry(scale="log", margin=1), runs(({"method": "group"}, [1.0, 2, 0]), ({}, [1.0, 2, 3])))
    assert (none.verdict, none.note) == ("premise not met", "no logarithm: 1 values ≤ 0")


def test_what_is_not_paired_is_welchs_test():
    a, b = [54.0, 61.0, 52.0, 58.0], [50.0, 40.0, 43.0, 51.0, 47.0, 20.0]
    table = runs(({"method": "group"}, a), ({}, {seed + 3: value for seed, value in enumerate(b)}))
    found, expected = verdict_of(entry(pairing="none"), table), stats.ttest_ind(a, b, equal_var=False)
    ends = expected.confidence_interval()
    assert (found.n, found.p) == (4, pytest.approx(expected.pvalue))
    assert [found.low, found.high] == pytest.approx([ends.low, ends.high])
    assert math.isnan(found.pairing_ratio)  # one seed in common
    alike = verdict_of(entry(pairing="none"), against([1.0, 2.0, 4.0, 3.0]))
    assert alike.pairing_ratio < 0.2


@pytest.mark.parametrize(
    ("metric", "worse", "expected"),
    [
        ("test_acc", -1.0, "holds"),
        ("test_acc", -4.0, "does not hold"),
        ("test_loss", 1.0, "holds"),
        ("test_loss", 4.0, "does not hold"),
    ],
)
def test_what_is_not_inferior_is_worse_by_less_than_the_margin(metric, worse, expected):
    table = against(np.add(worse, [0.1, -0.1, 0.2, -0.2]))
    found = verdict_of(entry("non_inferiority", metric=metric), table)
    assert (found.verdict, found.estimate) == (expected, pytest.approx(-abs(worse)))


def test_a_share_is_an_exact_binomial_test():
    table = against(np.zeros(8))
    table.loc[(table.method == "group") & (table.seed < 7), "status"] = "diverged"
    found, expected = verdict_of(entry("share"), table), stats.binomtest(7, 8, 0.5)
    ends = stats.binomtest(7, 8).proportion_ci(method="exact")
    assert (found.estimate, found.metric) == (87.5, "diverged")
    assert [found.low, found.high] == pytest.approx([100 * ends.low, 100 * ends.high])
    assert found.p == pytest.approx(expected.pvalue)
    assert found.note == "7 of 8; exact binomial test and interval"


def courses(**arms) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and curves: by method the validation accuracies of each replicate at steps 100, 200, …"""
    table = runs(*(({"method": method, "val_acc": 0.0}, [row[-1] for row in rows]) for method, rows in arms.items()))
    lines = [
        {"run_id": f"run{run}", "seed": seed, "epoch": at, "step": 100 * at, "val_acc": value}
        for run, rows in enumerate(arms.values())
        for seed, row in enumerate(rows)
        for at, value in enumerate(row, 1)
    ]
    return table, pd.DataFrame(lines)


def test_a_speedup_is_read_from_the_curves():
    slow = [[10, 20, 30, 40, 50 + seed / 10] for seed in range(5)]
    fast = [[20, 55, 60, 70, 80]] * 3 + [[20, 30, 60, 70, 80]] * 2
    table, curves = courses(fast=fast, slow=slow)
    [found] = decide(parse_claims([entry("speedup", margin=1)]), table, curves)
    # The plain net's best, on the mean, is 50.2, which three of its own five come to between steps 400 and 500.
    assert found.note == (
        "to 50.20; restricted means up to 500 steps: a 190, b 470; b: 2 of 5 never reached it; exact log-rank test"
    )
    assert (found.verdict, found.scale, found.metric, found.p) == ("holds", "log", "val_acc", pytest.approx(2 / 252))
    assert 1 < found.low < found.estimate < found.high
    [none] = decide(parse_claims([entry("speedup", margin=1)]), table, curves.assign(val_acc=curves.val_acc % 10))
    assert none.verdict == "inconclusive"


# --- A plan of looks --------------------------------------------------------------------------------------------------


def test_looks_are_judged_by_the_plan():
    contrast = [1.0, 2.5, 2.0, 4.0, 3.5, 1.5, 2.0, 0.5]
    table, claim = against(contrast), parse_claims([entry()])
    nominal = obrien_fleming((0.5, 1.0))
    p = [stats.ttest_1samp(contrast[:n], 0, alternative="greater").pvalue for n in (4, 8)]
    [first] = decide(claim, table[table.seed < 4], looks=[4, 8])
    assert (first.n, first.look, first.p) == (4, 1, pytest.approx(2 * sequential_p(p[:1], (0.5, 1.0))))
    assert (first.p <= 0.05) == (2 * p[0] <= nominal[0])
    assert first.note.startswith(f"look 1 of 2: stops at p ≤ {nominal[0]:.2g}")
    low = stats.ttest_1samp(contrast[:4], 0).confidence_interval(1 - nominal[0]).low
    assert first.low == pytest.approx(low)
    [last] = decide(claim, table, looks=[4, 8])
    assert (last.n, last.look, last.p) == (8, 2, pytest.approx(2 * sequential_p(p, (0.5, 1.0))))
    # A look that is not complete has not been made.
    running = table.assign(status=table.status.mask((table.seed == 6) & (table.method == "group"), "running"))
    assert decide(claim, running, looks=[4, 8])[0] == first
    [none] = decide(claim, table[table.seed < 3], looks=[4, 8])
    assert (none.verdict, none.look, none.note) == ("not enough runs", 0, "the first of 2 looks takes 4 seeds")


@pytest.mark.parametrize("looks", [[5, 5], [10, 5], [2, 5], 5, [], [5, 7.5], "5,10"])
def test_looks_that_are_no_plan(looks):
    with pytest.raises(InputError, match=r"^looks=.*: must be rising numbers of seeds from 3 on, like \[5, 10, 20\]$"):
        parse_looks(looks)


# --- Primary claims ---------------------------------------------------------------------------------------------------


def test_primary_claims_are_corrected_over_all_studies():
    contrast = [1.0, 2.5, 2.0, 4.0, 3.5]
    claims = [entry(primary=True), entry(name="second"), entry(name="third")]
    primary, second, third = decide(parse_claims(claims), against(contrast), others=[0.5, 1.0, 0.001])
    assert primary.p == second.p == third.p
    assert (primary.tier, second.tier) == ("primary", "secondary")
    assert primary.p_holm == pytest.approx(3 * primary.p)  # the second smallest of four
    assert second.p_holm == third.p_holm == pytest.approx(2 * second.p)
    with pytest.raises(InputError, match=r"claims\.c4\.primary=true: 4 earlier claims are primary"):
        parse_claims([entry(name=f"c{i}", primary=True) for i in range(5)])


# --- What has a direction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "table"), [("difference", against), ("trend", ghosts), ("difference_of_differences", squared)]
)
@pytest.mark.parametrize(
    ("contrast", "direction", "margin", "expected"),
    [
        ([2, 2.1, 1.9], "greater", 1, "holds"),
        ([2, 2.1, 1.9], "greater", 3, "does not hold"),
        ([2, 2.1, 1.9], "greater", 2.05, "inconclusive"),
        ([2, 2.1, 1.9], "less", 0, "does not hold"),
        ([-2, -2.1, -1.9], "less", 1, "holds"),
        ([-2, -2.1, -1.9], "less", 3, "does not hold"),
        ([-2, -2.1, -1.9], "less", 1.95, "inconclusive"),
        ([0, 0, 0], "greater", 0, "inconclusive"),
        ([0.5, 0.5, 0.5], "greater", 0, "holds"),
    ],
)
def test_verdicts_of_what_has_a_direction(kind, table, contrast, direction, margin, expected):
    found = verdict_of(entry(kind, direction=direction, margin=margin), table(contrast))
    if kind == "trend" and not margin:  # from the first level to the last: six doublings
        contrast = np.multiply(6, contrast)
    mean = np.mean(contrast)
    ends = stats.t.interval(0.95, 2, mean, stats.sem(contrast)) if np.ptp(contrast) else (mean, mean)
    assert found.verdict == expected
    assert (found.p_holm <= 0.05) == (expected != "inconclusive")
    assert [found.estimate, found.low, found.high] == pytest.approx([mean, *ends])
    assert (found.n, found.margin) == (3, margin)


# --- Several claims ---------------------------------------------------------------------------------------------------


def several(*contrasts):
    """A difference claim for each contrast, at a batch size of its own, decided together."""
    tables, claims = [], []
    for size, contrast in enumerate(contrasts, 1):
        tables.append(against(contrast, batch_size=size))
        cells = {key: {"method": method, "batch_size": size} for key, method in (("a", "group"), ("b", "batch"))}
        claims.append(entry(name=f"at_{size}", **cells))
    return decide(parse_claims(claims), pd.concat(tables, ignore_index=True))


def test_holm_takes_back_what_one_interval_would_decide():
    alone, first, second = *several(BORDERLINE), *several(BORDERLINE, [1, -1, 0.5, -0.5, 0.1])
    assert alone.p == pytest.approx(0.04742065558431961)
    assert (alone.verdict, alone.note) == ("holds", "")
    assert first.low > 0
    assert (first.p, first.p_holm) == (alone.p, pytest.approx(2 * alone.p))
    assert first.verdict == second.verdict == "inconclusive"
    assert first.note == "holds by its own p value, not after Holm's correction over 2 claims"
    assert second.note == ""
    refuted, _ = several([-x for x in BORDERLINE], [1, -1, 0.5, -0.5, 0.1])
    assert refuted.note.startswith("does not hold by its own p value, not after Holm's")


def test_holm_asks_less_of_the_last():
    clear, borderline = several(CLEAR, BORDERLINE)
    assert clear.p_holm == pytest.approx(2 * clear.p)
    assert (borderline.p_holm, borderline.verdict) == (borderline.p, "holds")


def test_what_is_not_tested_does_not_count_for_holm():
    short, premise = [1.0, 2.0], recovered([1, 1, 1, 1], [0, 0, 0, 0])
    table = pd.concat([against(BORDERLINE), against(short, lr=0.2), premise.assign(lr=0.3)], ignore_index=True)
    at = {key: {"method": method, "lr": 0.1} for key, method in (("a", "group"), ("b", "batch"))}
    cells = {key: cell | {"lr": 0.3} for key, cell in GIVEN["recovery"].items() if key != "share"}
    claims = [
        entry(name="short", a={"method": "group", "lr": 0.2}, b={"method": "batch", "lr": 0.2}),
        entry(name="borderline", **at),
        entry("recovery", name="premise", **cells),
    ]
    found = decide(parse_claims(claims), table)
    assert [verdict.name for verdict in found] == ["short", "borderline", "premise"]
    assert [verdict.verdict for verdict in found] == ["not enough runs", "holds", "premise not met"]


def test_the_bootstrap_depends_on_the_name_alone():
    table = against(np.random.default_rng(6).normal(2, 1, 12))
    first, other = entry(), entry(name="other")
    alone, together = decide(parse_claims([first]), table)[0], decide(parse_claims([other, first]), table)
    assert (alone.bca_low, alone.bca_high) == (together[1].bca_low, together[1].bca_high)
    assert (alone.bca_low, alone.bca_high) != (together[0].bca_low, together[0].bca_high)


def test_no_claims():
    assert decide(parse_claims(None), against(CLEAR)) == []


# --- Replicates that diverged, failed or are missing ------------------------------------------------------------------


def test_a_diverged_replicate_counts_at_chance():
    table = against([1.0, 1.1, 0.9, 1.05, 0.95])
    lost = (table.method == "batch") & table.seed.isin([1, 3])
    table.loc[lost, ["status", "test_acc", "test_loss"]] = ["diverged", CHANCE, math.nan]
    found = verdict_of(entry(), table)
    a, b = (table.test_acc[table.method == method].to_numpy() for method in ("group", "batch"))
    assert found.n == 5
    assert found.estimate == pytest.approx((a - b).mean())
    assert found.estimate > 10
    assert found.note == "b: 2 of 5 diverged, counted at chance"
    loss = verdict_of(entry(metric="test_loss"), table)
    assert loss.n == 3
    assert loss.note == "2 of 5 seeds missing; b: 2 diverged without test_loss, not counted"


def test_a_rate_is_suggested_or_not_whatever_became_of_the_training():
    table = runs(({"method": "group"}, [50.0] * 4), ({"method": "none"}, [10.0] * 4))
    table.loc[table.method == "none", "status"] = "diverged"
    table["suggested_lr"] = [0.1, 0.2, 0.3, None, 0.01, 0.02, 0.02, 0.04]
    table["lr_found"] = table["suggested_lr"].notna()
    found = verdict_of(entry(a={"method": "group"}, b={"method": "none"}, metric="suggested_lr"), table)
    assert (found.n, found.estimate) == (3, pytest.approx(0.2 - 0.05 / 3))
    assert found.note == "a: no suggested rate for 1 of 4; 1 of 4 seeds missing"
    table["regret"] = [0.5, 1.0, math.nan, math.nan, 0.1, 0.2, 0.3, 0.4]  # one suggestion was beyond the grid
    level = entry(kind="level", a={"method": "group"}, metric="regret", direction="less", level=2)
    found = verdict_of({key: level[key] for key in level if key not in ("b", "margin")}, table)
    assert (found.n, found.estimate) == (2, pytest.approx(0.75))
    assert found.note.startswith("a: no regret for 2 of 4; 2 of 4 seeds missing")


def test_steps_that_were_not_enough_are_compared_in_their_order_alone():
    steps = {"group": [300, 280, 310, 305, 320], "batch": [500, 900, 900, 600, 900]}
    table = runs(*(({"method": method}, values) for method, values in steps.items()))
    table = table.assign(steps_to_target=table.test_acc, target_reached=table.test_acc < 900)
    claim = entry(metric="steps_to_target", direction="less")
    found = verdict_of(claim, table)
    # All five come before all five: one of 252 ways to split them.
    assert (found.verdict, found.n, found.p) == ("holds", 5, pytest.approx(2 / 252))
    assert found.estimate == pytest.approx(303 - 760)
    assert found.note == ("restricted means, up to 900; p: exact log-rank test; b: 3 of 5 censored: target not reached")
    missing = table.astype({"target_reached": object})  # as a file gives them where some runs are not over
    missing.loc[(table.method == "batch") & (table.seed == 2), ["status", "steps_to_target", "target_reached"]] = [
        "missing",
        math.nan,
        math.nan,
    ]
    assert verdict_of(claim, missing).note.endswith("1 of 5 seeds missing; b: 2 of 4 censored: target not reached")
    margin = verdict_of(claim | {"margin": 100}, table)
    assert (margin.verdict, margin.note.split(";")[0]) == (
        "premise not met",
        "values that are only bounds have no mean: the kind speedup takes them",
    )
    assert math.isnan(margin.estimate)
    assert verdict_of(claim, table.drop(columns="target_reached")).note == ""


@pytest.mark.parametrize("status", ["failed", "running", "stopped", "missing"])
def test_what_is_not_over_lowers_n(status):
    table = against([1.0, 1.1, 0.9, 1.05, 0.95])
    table.loc[(table.method == "group") & table.seed.isin([0, 4]), ["status", "test_acc"]] = [status, math.nan]
    found = verdict_of(entry(), table)
    assert (found.n, found.verdict, found.note) == (3, "holds", "2 of 5 seeds missing")
    assert found.estimate == pytest.approx((1.1 + 0.9 + 1.05) / 3)
    stale = table.assign(test_acc=table.test_acc.fillna(0))  # whatever a table says of them
    assert verdict_of(entry(), stale) == found


def test_seeds_are_paired_whatever_their_order():
    table = runs(({"method": "group"}, {7: 54.0, 3: 61.0, 5: 42.0, 9: 1.0}), ({}, {3: 60.0, 5: 40.0, 7: 51.0, 8: 99.0}))
    found = verdict_of(entry(), table.sample(frac=1, random_state=0))
    assert (found.n, found.estimate) == (3, 2)
    assert found.note == "2 of 5 seeds missing"


@pytest.mark.parametrize("n", [1, 2])
def test_two_seeds_are_not_enough(n):
    found = verdict_of(entry(), against([5.0, 5.1][:n]))
    assert (found.verdict, found.n) == ("not enough runs", n)
    assert found.estimate == pytest.approx(5 if n == 1 else 5.05)
    assert math.isnan(found.low) == (n == 1)
    assert math.isnan(found.p)
    assert found.note == f"a verdict takes 3 seeds that all cells have; there are {n}"


def test_cells_without_runs_or_values():
    table = against(CLEAR)
    nothing = verdict_of(entry(a={"method": "gruop"}), table)
    assert (nothing.verdict, nothing.n) == ("not enough runs", 0)
    assert math.isnan(nothing.estimate)
    assert nothing.note == "no run of the table has method=gruop; a: no runs; 5 of 5 seeds missing"
    silent = verdict_of(entry(a={"method": "group", "metric": "test_acc_precise"}), table)
    assert (silent.verdict, silent.n) == ("not enough runs", 0)
    assert silent.note == "a: no values of test_acc_precise; 5 of 5 seeds missing"
    assert verdict_of(entry(), table[:0]).verdict == "not enough runs"


def test_the_verdicts_survive_a_file(tmp_path):
    table = against(CLEAR, lr=0.1 + 0.2).astype({"seed": "Int64", "batch_size": "Int64"})
    table["nesterov"] = pd.Series([None, *[True] * (len(table) - 1)], dtype=object)
    table["momentum"] = ["scaled", *[0.1] * (len(table) - 1)]
    table.to_csv(tmp_path / "runs.csv", index=False)
    more = {"lr": 0.3, "batch_size": 128, "stats_batch": None, "momentum": 0.1, "nesterov": True}
    claim = entry(a={"method": "group", **more}, b={"method": ["batch", "none"], **more})
    found = verdict_of(claim, table)
    assert (found.n, found.verdict) == (4, "holds")
    again = verdict_of(claim, pd.read_csv(tmp_path / "runs.csv"))
    assert (again.n, again.verdict, again.estimate) == (4, "holds", pytest.approx(found.estimate))


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def without(key, kind="difference"):
    return {k: value for k, value in entry(kind).items() if k != key}


KIND_NAMES = (
    "difference, difference_of_differences, equivalence, interaction, level, non_inferiority, recovery, share, "
    "speedup, spread, trend"
)
TWO = "must be a list of two different columns, like [data.noise, data.input]"
CELL = "must be a cell like {method: group, batch_size: [2, 4]}: columns of the table, each with a value or a list"


@pytest.mark.parametrize(
    ("claims", "line"),
    [
        ({"it": 1}, "claims={it: 1}: must be a list of claims"),
        (["gn wins"], "claims[0]=gn wins: must be a claim: name, statement, source, kind, …"),
        ([without("name")], "claims[0].name=null: must be a name"),
        ([entry(), entry()], "claims[1].name=it: an earlier claim has this name"),
        ([without("statement")], "claims.it.statement=null: must be a text"),
        ([entry(source=" ")], "claims.it.source=: must be a text"),
        ([without("kind")], f"claims.it.kind=null: choices: {KIND_NAMES}"),
        (
            [entry() | {"kind": "diference"}],
            f"claims.it.kind=diference: did you mean difference? choices: {KIND_NAMES}",
        ),
        ([entry(direction="more")], "claims.it.direction=more: choices: greater, less"),
        ([without("direction", "trend")], "claims.it.direction=null: choices: greater, less"),
        (
            [entry(marign=1)],
            "claims.it.marign=1: no key of kind difference; did you mean margin? "
            "choices: a, b, direction, kind, margin, metric, name, pairing, primary, scale, source, statement",
        ),
        (
            [entry("spread", direction="less")],
            "claims.it.direction=less: no key of kind spread; "
            "choices: kind, margin, metric, name, over, primary, scale, source, statement, where",
        ),
        ([entry(margin=-1)], "claims.it.margin=-1: must be a number ≥ 0"),
        ([entry(margin="wide")], "claims.it.margin=wide: must be a number ≥ 0"),
        ([without("margin")], "claims.it.margin=null: must be a number ≥ 0"),
        ([entry("equivalence", margin=0)], "claims.it.margin=0: must be a number > 0"),
        ([entry("recovery", share=1.5)], "claims.it.share=1.5: must be a number above 0, at most 1"),
        ([entry(metric=3)], "claims.it.metric=3: must be a name"),
        ([entry(a="group")], f"claims.it.a=group: {CELL}"),
        ([entry(a={"metric": "test_acc"})], f"claims.it.a={{metric: test_acc}}: {CELL}"),
        ([entry(a={"method": []})], f"claims.it.a={{method: []}}: {CELL}"),
        ([entry(a={"norm": {"name": "group"}})], f"claims.it.a={{norm: {{name: group}}}}: {CELL}"),
        (
            [entry("spread", where={"method": "group", "batch_size": 2})],
            "claims.it.where={method: group, batch_size: 2}: "
            "must list two values of batch_size or more, none of them null, or not name it",
        ),
        (
            [entry("trend", where={"stats_batch": [None, 2.5]})],
            "claims.it.where={stats_batch: [null, 2.5]}: "
            "must list two values of stats_batch or more, none of them null, or not name it",
        ),
        *(
            ([entry("interaction", over=over)], f"claims.it.over={typed}: {TWO}")
            for over, typed in (
                ("data.noise", "data.noise"),
                (["data.noise"], "[data.noise]"),
                (["data.noise", "data.noise"], "[data.noise, data.noise]"),
                (["a", "b", "c"], "[a, b, c]"),
                (["data.noise", 3], "[data.noise, 3]"),
                (None, "null"),
            )
        ),
        ([entry("spread", over=["lr", "batch_size"])], "claims.it.over=[lr, batch_size]: must be a name"),
        (
            [entry("interaction", where={"data.input": ["raw", "raw"]})],
            "claims.it.where={data.input: [raw, raw]}: "
            "must list two values of data.input or more, none of them null, or not name it",
        ),
        (
            [entry("interaction", margin=1)],
            "claims.it.margin=1: no key of kind interaction; "
            "choices: kind, metric, name, over, primary, source, statement, where",
        ),
        ([without("d", "difference_of_differences")], f"claims.it.d=null: {CELL}"),
        ([entry(scale="log")], "claims.it.margin=0: must be a number of at least 1: a factor"),
        ([entry("level", scale="log", level=-1)], "claims.it.level=-1: must be a number > 0"),
        ([entry(scale="logs")], "claims.it.scale=logs: did you mean log? choices: linear, log"),
        ([entry(pairing=False)], "claims.it.pairing=false: choices: none, seed"),
        ([entry(primary="yes")], "claims.it.primary=yes: must be true or false"),
        ([entry("share", level=101)], "claims.it.level=101: must be a number from 0 to 100: a percentage"),
        ([entry("speedup", margin=0.5)], "claims.it.margin=0.5: must be a number of at least 1: a factor"),
        (
            [entry("non_inferiority", metric="seed")],
            "claims.it.metric=seed: seed is neither better where higher nor where lower: the kind difference takes it",
        ),
        ([without("margin", "difference_of_differences")], "claims.it.margin=null: must be a number ≥ 0"),
    ],
)
def test_a_mistake_in_a_claim_is_one_line(claims, line):
    with pytest.raises(InputError) as error:
        parse_claims(claims)
    assert str(error.value) == line


COLUMNS = "choices: batch_size, lr, method, run_id, seed, stats_batch, status, test_acc, test_acc_precise, test_loss"
NUMBERS = "choices: batch_size, diverged, lr, seed, stats_batch, test_acc, test_acc_precise, test_loss"


@pytest.mark.parametrize(
    ("claim", "line"),
    [
        (
            entry(a={"metod": "group"}),
            f"claims.it.a.metod=group: the table has no such column; did you mean method? {COLUMNS}",
        ),
        (
            entry("spread", over="size"),
            f"claims.it.over=size: the table has no such column; {COLUMNS}",
        ),
        (
            entry("interaction", where={"lr": 0.1}, over=["method", "data.inptu"]),
            f"claims.it.over=[method, data.inptu]: the table has no such column; {COLUMNS}",
        ),
        (
            entry(metric="test_ac"),
            f"claims.it.metric=test_ac: the table has no such column of numbers; did you mean test_acc? {NUMBERS}",
        ),
        (
            entry(b={"method": "batch", "metric": "status"}),
            "claims.it.b.metric=status: the table has no such column of numbers; " + NUMBERS,
        ),
        (
            entry("trend", where={"lr": 0.1}, over="method"),
            "claims.it.over=method: has values that do not double: [batch, group]",
        ),
        (
            entry(a={"method": ["group", "batch"]}),
            "claims.it.a={method: [group, batch]}: several runs with seed 0: run0, run1; "
            "add a column that tells them apart",
        ),
        (
            entry("spread", where={"lr": 0.1}),
            "claims.it.where={lr: 0.1, batch_size: 128}: several runs with seed 0: run0, run1; "
            "add a column that tells them apart",
        ),
    ],
)
def test_a_claim_that_does_not_fit_the_table_is_one_line(claim, line):
    with pytest.raises(UserError) as error:
        verdict_of(claim, against(CLEAR))
    assert str(error.value) == line
