"""`optim.lr=tuned` by a table that knows batch sizes: at them, between them, and of options."""

import math

import pytest

from normbench.config.resolve import resolve
from normbench.errors import InputError

HEAD = "model,optimizer,method,norm.momentum,norm.ghost_size,batch_size,lr,val_acc,lr_scaling"
SCALED = {size: 1 - 0.9 ** (size / 128) for size in (2, 8)}
ROWS = [
    *(f"resnet8,sgd,batch,0.1,,{size},{lr},50,linear" for size, lr in ((2, 0.8), (8, 0.4), (128, 0.1))),
    *(f"resnet8,sgd,batch,{SCALED[size]},,{size},{lr},50,linear" for size, lr in ((2, 1.6), (8, 0.8))),
    *(f"resnet8,sgd,ghost_batch,0.1,{size},128,{lr},50,linear" for size, lr in ((2, 0.025), (32, 0.05))),
]


@pytest.fixture
def rate(compose, tmp_path):
    """Overrides → the rate that optim.lr=tuned comes to."""
    file = tmp_path / "rates.csv"
    file.write_text("\n".join([HEAD, *ROWS]))
    return lambda *typed: resolve(compose(*typed, "optim.lr=tuned", f"optim.rates={file}")).optim.lr


def between(size, low, high, at_low, at_high):
    """The power law through two points."""
    slope = (math.log(at_high) - math.log(at_low)) / (math.log(high) - math.log(low))
    return math.exp(math.log(at_low) + slope * (math.log(size) - math.log(low)))


def test_at_a_size_of_the_table_it_is_its_own_and_between_them_on_a_line_of_logarithms(rate):
    assert [rate(f"batch_size={size}") for size in (2, 8, 128)] == [0.8, 0.4, 0.1]
    assert rate("batch_size=4") == pytest.approx(between(4, 2, 8, 0.8, 0.4), rel=1e-3)
    assert rate("batch_size=32") == pytest.approx(between(32, 8, 128, 0.4, 0.1), rel=1e-3) == 0.2


def test_beyond_the_sizes_of_the_table_is_one_line(rate):
    with pytest.raises(InputError, match=r"batch_size=256: .*rates\.csv has rates for 2 to 128"):
        rate("batch_size=256")


def test_arms_of_several_options_have_rates_of_their_own(rate):
    assert rate("norm.momentum=scaled", "batch_size=2") == 1.6
    assert rate("norm.momentum=scaled", "batch_size=4") == pytest.approx(between(4, 2, 8, 1.6, 0.8), rel=1e-3)
    assert rate("norm.momentum=scaled", "batch_size=128") == 0.1  # where it is 0.1
    assert rate("norm.momentum=scaled", "batch_size=32") == pytest.approx(between(32, 8, 128, 0.8, 0.1), rel=1e-3)
    with pytest.raises(InputError, match=r"no rate for resnet8/sgd/batch norm.momentum=0.3; it has .*momentum=0\.1"):
        rate("norm.momentum=0.3")


def test_groups_of_images_go_from_size_to_size_up_to_the_whole_batch(rate):
    ghost = ("norm=ghost_batch", "batch_size=128")
    assert rate(*ghost, "norm.ghost_size=2") == 0.025
    assert rate(*ghost, "norm.ghost_size=8") == pytest.approx(between(8, 2, 32, 0.025, 0.05), rel=1e-3)
    assert rate(*ghost, "norm.ghost_size=64") == pytest.approx(between(64, 32, 128, 0.05, 0.1), rel=1e-3)
    assert rate("norm=ghost_batch", "norm.ghost_size=2", "batch_size=8") == 0.4  # batch's: it has none of its own there
    assert rate("norm=sync_batch", "batch_size=8") == 0.4


def test_the_rate_of_a_step_is_the_same_whatever_scales_it(rate):
    assert rate("batch_size=8", "lr_scaling=none") == pytest.approx(0.4 * 8 / 128)
    assert rate("batch_size=8", "lr_scaling=sqrt") == pytest.approx(0.4 * math.sqrt(8 / 128))
    step = between(4, 2, 8, 0.8, 0.4) * 4 / 128
    assert rate("batch_size=4", "lr_scaling=none") == pytest.approx(step, rel=1e-3)


def test_another_methods_rate_may_be_the_measure_of_all(rate, compose, tmp_path):
    assert rate("norm=weight_norm", "optim.rates_of=batch", "batch_size=8") == 0.4
    file = tmp_path / "others.csv"
    file.write_text("model,optimizer,method,lr,val_acc\nresnet8,sgd,none,0.02,50\n")
    typed = ("optim.lr=tuned", f"optim.rates={file}")
    config = resolve(compose(*typed, "norm=ghost_batch", "optim.rates_of=none", "optim.lr_factor=5"))
    assert (config.optim.lr, config.optim.lr_factor) == (0.02, 5)
    with pytest.raises(InputError, match=r"no rate for resnet8/sgd/group; it has resnet8/sgd/none"):
        resolve(compose(*typed, "norm=none", "optim.rates_of=group"))
    with pytest.raises(InputError, match=r"optim\.rates_of=non: did you mean none"):
        resolve(compose("optim.rates_of=non"))


def test_arms_of_several_options_of_the_model_have_rates_of_their_own_too(compose, tmp_path):
    file = tmp_path / "rates.csv"
    rows = ("vgg,sgd,batch,relu,0.1,50", "vgg,sgd,batch,sigmoid,0.3,50")
    file.write_text("\n".join(["model,optimizer,method,model.activation,lr,val_acc", *rows]))
    typed = ("model=vgg", "optim.lr=tuned", f"optim.rates={file}")
    assert [resolve(compose(*typed, f"model.activation={name}")).optim.lr for name in ("relu", "sigmoid")] == [0.1, 0.3]
    with pytest.raises(InputError, match=r"no rate for vgg/sgd/batch model\.activation=tanh; it has"):
        resolve(compose(*typed, "model.activation=tanh"))


def test_a_rate_of_one_size_is_of_all(compose, tmp_path):
    file = tmp_path / "rates.csv"
    file.write_text(f"{HEAD}\nresnet8,sgd,group,,,32,0.3,50,linear\n")
    typed = ("norm=group", "optim.lr=tuned*2", f"optim.rates={file}")
    assert [resolve(compose(*typed, f"batch_size={size}")).optim.lr for size in (2, 32, 256)] == [0.6] * 3
