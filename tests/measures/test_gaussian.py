"""How normal features are: known distributions, scipy channel by channel, what batch normalization cannot change."""

import numpy as np
import pytest
import torch
from scipy import stats

from normbench.analysis.statistics import holm
from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.measures.gaussian import _seen, check, observe, shape
from normbench.models import build_model, stack_states
from normbench.norms import Layers
from normbench.norms.plain import Norm
from normbench.records.metrics import GAUSSIAN

HOW = ("measure=gaussian", "measure.images=40", "model.width=4", "epochs=1")


def images(count=60, replicates=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3 * replicates, 8, 8, generator=generator, dtype=torch.float64)


def network(norm, seeds=(1,), **options):
    """With a γ and a β that are not those of the start."""
    model = build_model("resnet8", Layers(norm, options, replicates=len(seeds)), seeds, width=4).double()
    for layer in (module for module in model.modules() if isinstance(module, Norm)):
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-1, 2.1, len(layer.weight)))
            layer.bias.fill_(0.3)
    return model


def drawn(values):
    return [shape(layer["values"][0]) for layer in values]


# --- Values. ----------------------------------------------------------------------------------------------------------


def test_known_distributions():
    draw = np.random.default_rng(0)
    n = 200_000
    values = np.stack([draw.normal(3, 2, n), draw.exponential(1, n), draw.uniform(0, 1, n), draw.laplace(0, 1, n)], 1)
    found = shape(values)
    assert found["skewness"] == pytest.approx([0, 2, 0, 0], abs=0.15)
    assert found["excess"] == pytest.approx([0, 6, -1.2, 3], abs=0.6)
    assert found["p"][0] > 0.01
    assert (found["p"][1:] < 1e-6).all()


def test_normal_channels_are_seldom_told_from_normal_ones():
    """Before correction as often as the level says, after it hardly ever."""
    p = shape(np.random.default_rng(1).normal(size=(500, 2000)))["p"]
    assert 0.005 < np.mean(p <= 0.01) < 0.02
    assert np.mean(holm(p) <= 0.01) < 0.002


def test_shape_is_that_of_scipy_channel_by_channel():
    values = np.random.default_rng(2).gamma(2, size=(50, 3))
    values[:, 1] = 4
    found = shape(values)
    assert np.isnan([found[name][1] for name in found]).all()
    for channel in (0, 2):
        one = values[:, channel]
        assert found["skewness"][channel] == pytest.approx(stats.skew(one))
        assert found["excess"][channel] == pytest.approx(stats.kurtosis(one))
        assert found["p"][channel] == pytest.approx(stats.normaltest(one).pvalue)


def test_each_image_gives_a_value_of_a_position_of_its_own():
    place = torch.arange(40 * 16).view(40, 1, 4, 4).double()
    seen = _seen(place.repeat(1, 2, 1, 1), [5, 6], 3)
    assert seen["values"].shape == (2, 40, 1)
    for values in seen["values"][..., 0]:
        assert (values // 16 == np.arange(40)).all()
        assert len(set(values % 16)) > 8
    assert not np.array_equal(*seen["values"])  # a seed draws its own
    assert seen["mean"][:, 0] == pytest.approx(place.mean().item())
    assert seen["variance"][:, 0] == pytest.approx(place.var(correction=0).item())


# --- Networks. --------------------------------------------------------------------------------------------------------


def test_batch_normalization_gives_two_moments_and_no_shape():
    model = network("batch")
    seen = observe(model, images(), [3])
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    assert len(seen["before"]) == len(seen["after"]) == len(norms) == 7
    for norm, before, after in zip(norms, seen["before"], seen["after"], strict=True):
        variance = before["variance"][0]
        scale = norm.weight.detach().numpy()
        assert after["mean"][0] == pytest.approx(0.3)
        assert after["variance"][0] == pytest.approx(scale**2 * variance / (variance + norm.eps), rel=1e-9)
        mine, theirs = (shape(one["values"][0]) for one in (after, before))
        assert mine["skewness"] == pytest.approx(np.sign(scale) * theirs["skewness"], abs=1e-9)
        assert mine["excess"] == pytest.approx(theirs["excess"], abs=1e-9)
        assert mine["p"] == pytest.approx(theirs["p"], abs=1e-9)


def test_an_images_own_statistics_do_change_the_shape():
    seen = observe(network("layer"), images(), [3])
    pairs = zip(drawn(seen["before"]), drawn(seen["after"]), strict=True)
    assert all(np.abs(np.abs(a["skewness"]) - np.abs(b["skewness"])).max() > 1e-3 for a, b in pairs)


def test_without_norms_it_is_of_what_the_convolutions_give():
    model, x, given = network("none"), images(), []
    model.stem[0].register_forward_hook(lambda *passed: given.append(passed[2]))
    seen = observe(model, x, [3])
    assert len(seen["after"]) == 7
    assert seen["after"] == seen["before"]
    by_channel = given[0].detach().transpose(0, 1).flatten(1).numpy()
    assert seen["after"][0]["variance"][0] == pytest.approx(by_channel.var(1))


def test_a_network_is_as_before():
    model = network("batch").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    observe(model, images(), [3])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (torch.equal(torch.random.get_rng_state(), state), model.training) == (True, False)


def test_replicates_are_what_each_is_alone():
    alone = [network("batch", (seed,)) for seed in (1, 2)]
    together = network("batch", (1, 2))
    together.load_state_dict(stack_states([one.state_dict() for one in alone]))
    seen = observe(together, images(replicates=2), [8, 9])
    for index, one in enumerate(alone):
        mine = observe(one, images(replicates=2)[:, 3 * index : 3 * index + 3], [8 + index])
        for place in ("before", "after"):
            for a, b in zip(seen[place], mine[place], strict=True):
                np.testing.assert_allclose(a["values"][index], b["values"][0], rtol=1e-9, atol=1e-9)


# --- Runs. ------------------------------------------------------------------------------------------------------------


def test_a_run_looks_at_the_start_or_after_training(run):
    start, rows, _ = run(*HOW)
    trained, _, _ = run(*HOW, "measure.trained=true")
    assert start["run_id"] != trained["run_id"]
    (one,), (other,) = start["replicates"], trained["replicates"]
    assert [one[outcome.name] != other[outcome.name] for outcome in GAUSSIAN[1:3]] == [True, True]
    assert one["skewness"] == pytest.approx(one["skewness_before"], rel=1e-4)  # of BN, in float32
    assert [(row["layer"], row["place"]) for row in rows] == [
        (str(layer), place) for place in ("before", "after") for layer in range(1, 8)
    ]
    of_after = [row for row in rows if row["place"] == "after"]
    assert all(abs(float(row["mean"])) < 1e-5 and abs(float(row["variance"]) - 1) < 1e-3 for row in of_after)


def test_what_diverges_is_an_outcome(run):
    result, rows, _ = run(*HOW, "norm=none", "measure.trained=true", "optim.lr=1e8", "optim.warmup_samples=0")
    assert (result["status"], rows) == ("diverged", [])
    assert [result["replicates"][0][outcome.name] for outcome in GAUSSIAN] == 6 * [None]


def test_a_number_of_images_that_cannot_be(compose):
    for given in (19, 5001):
        config = resolve(compose("data=patterns", "device=cpu", "measure=gaussian", f"measure.images={given}"))
        with pytest.raises(InputError, match=rf"measure\.images={given}: must be an integer from 20 to 5000"):
            check(config, 1)
