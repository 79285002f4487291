"""Products of Gaussian matrices: against the Fuss–Catalan numbers, the product itself, and a Jacobian by hand."""

import math

import pytest
import torch
from scipy import stats

from normbench.analysis.matrices_page import figures
from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.measures.matrices import chain, check, fuss_catalan, inputs, jacobian
from normbench.runs.collect import gather


@pytest.fixture
def configured(compose):
    return lambda *typed: resolve(compose("measure=matrices", "data=patterns", "device=cpu", *typed))


def weights(block) -> list[torch.Tensor]:
    return [layer.weight[:, :, 0, 0] for layer in block.modules() if isinstance(layer, torch.nn.Conv2d)]


def singular_values(config, seed=0):
    return torch.linalg.svdvals(jacobian(chain(config, seed), inputs(config, seed)))


def test_the_numbers_of_fuss_and_catalan():
    assert [fuss_catalan(1, k) for k in range(1, 6)] == [1, 2, 5, 14, 42]  # Catalan's
    assert [fuss_catalan(3, k) for k in (1, 2, 3)] == [1, 4, 22]
    for factors in (1, 2, 5):  # they grow as the powers of the largest squared singular value
        edge = (factors + 1) ** (factors + 1) / factors**factors
        assert fuss_catalan(factors, 1001) / fuss_catalan(factors, 1000) == pytest.approx(edge, rel=0.002)


@pytest.mark.parametrize(("factors", "seed"), [(1, 0), (2, 0), (3, 0), (3, 1), (3, 3)])
def test_moments_of_wide_products_are_these(configured, factors, seed):
    config = configured("norm=none", f"measure.factors={factors}", "measure.size=400")
    values = singular_values(config, seed)
    for k in (1, 2, 3):
        assert values.pow(2 * k).mean().item() == pytest.approx(fuss_catalan(factors, k), rel=0.03)
    edge = math.sqrt((factors + 1) ** (factors + 1) / factors**factors)
    assert values[0].item() == pytest.approx(edge, rel=0.05)


def test_without_a_norm_it_is_the_product(configured):
    config = configured("norm=none", "measure.factors=3", "measure.size=7")
    block = chain(config, 4)
    first, second, third = weights(block)
    torch.testing.assert_close(jacobian(block, inputs(config, 4)), third @ second @ first, rtol=1e-12, atol=1e-14)


def test_every_method_starts_from_the_same_matrices(configured):
    plain, normed = (weights(chain(configured(f"norm={norm}"), 2)) for norm in ("none", "batch"))
    assert all(torch.equal(a, b) for a, b in zip(plain, normed, strict=True))


def test_with_batch_normalization_it_goes_through_the_statistics(configured):
    config = configured("norm=batch", "measure.factors=3", "measure.size=5", "measure.images=6")
    block, x = chain(config, 0), inputs(config, 0)
    first, second, third = weights(block)

    def normalized(y):
        centred = y - y.mean(0)
        return centred / (centred.square().mean(0) + 1e-5).sqrt()

    def output(image):
        batch = torch.cat([image.unsqueeze(0), x[1:].flatten(1)])
        return (normalized(normalized(batch @ first.T) @ second.T) @ third.T)[0]

    expected = torch.autograd.functional.jacobian(output, x[0].flatten())
    torch.testing.assert_close(jacobian(block, x), expected, rtol=1e-10, atol=1e-12)


def test_layer_normalization_loses_a_direction_or_two(configured):
    """The mean and the scale of what it is given: the product is singular but for rounding."""
    values = singular_values(configured("norm=layer", "measure.factors=2", "measure.size=20"))
    assert values[-2] < 1e-4 * values[0] < values[-3]  # of the scale ε leaves something


def test_a_run_tells_moments_beside_those_of_wide_ones(run):
    result, rows, _ = run("measure=matrices", "norm=batch", "measure.size=8", "measure.images=9", "replicates=2")
    assert [(row["seed"], row["k"], row["fuss_catalan"]) for row in rows] == [
        (seed, k, wide) for seed in "01" for k, wide in zip("123", ("1", "4", "22"), strict=True)
    ]
    entry = result["replicates"][1]
    assert float(rows[3]["moment"]) == entry["moment_2"]
    assert entry["singular_largest"] ** 2 > entry["moment_2"] > (entry["singular_largest"] / entry["condition"]) ** 2


def test_the_figure_has_the_means_and_the_limit(run):
    for norm, factors in (("none", 1), ("none", 2), ("batch", 1), ("batch", 2)):
        how = (f"norm={norm}", f"measure.factors={factors}", "measure.size=6", "measure.images=7", "replicates=3")
        _, _, folder = run("measure=matrices", *how)
    runs = gather(str(folder.parent)).runs.astype({"measure.factors": float})  # as beside runs that have none
    drawn = figures(runs, None)["products"]
    condition, largest, fourth = drawn.axes
    lines = {line.get_label(): line for line in condition.lines}
    mine = runs[runs["method"].eq("batch") & runs["measure.factors"].eq(2)]
    assert lines["batch"].get_ydata()[1] == pytest.approx(stats.gmean(mine["condition"].astype(float)))
    assert largest.lines[-1].get_ydata() == pytest.approx([2, 6.75**0.5])
    assert fourth.lines[-1].get_ydata() == pytest.approx([2, 3])
    assert "n = 3 seeds" in drawn.get_supxlabel()
    assert figures(runs[runs["measure.factors"].eq(1)], None) == {}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["measure.factors=0"], r"measure\.factors=0: must be an integer ≥ 1"),
        (["measure.images=1"], r"measure\.images=1: must be an integer ≥ 2"),
        (["norm=group", "norm.num_groups=7"], r"norm\.num_groups=7: does not divide the 200 channels"),
        (["norm=instance"], "norm=instance: the statistic of a channel of one sample"),
    ],
)
def test_a_mistake_is_told_before_any_run(configured, typed, message):
    with pytest.raises(InputError, match=message):
        check(configured(*typed), 1)
