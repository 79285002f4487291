"""The network of a configuration is tried before any work starts."""

import pytest

from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.tasks import build
from normbench.tasks.build import check_network


def check(*typed):
    check_network(resolve(plan(normalize(["device=cpu", *typed]), False)[0][0].config))


def test_a_size_too_small_for_the_model_is_refused():
    """Those of the schedule alone: what is wrong with the model at any size is told as such."""
    small = "augment.resize=[[0,32],[0.3,16],[0.5,24]]"
    with pytest.raises(InputError, match=r"^norm.num_groups=5: "):
        check("norm=group", "norm.num_groups=5", small)
    check("model=vgg", "batch_size=2", small)
    # One pixel of one image is left of 16.
    with pytest.raises(InputError, match=r"^augment.resize=16: too small for model=vgg, norm=batch \(.*single value"):
        check("model=vgg", "batch_size=1", small)
    with pytest.raises(InputError, match=r"^augment.resize=4: too small for model=vgg, norm=batch \("):
        check("model=vgg", "augment.resize=[[0,32],[0.3,4],[0.5,16]]")


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [("optim=sgd", 3), ("optim=sgd optim.momentum=0 optim.nesterov=false", 2), ("optim=adamw", 4)],
)
@pytest.mark.parametrize("norm", ["batch", "weight_norm", "weight_standardization", "skipinit", "group"])
def test_the_memory_told_is_that_of_the_network_built(norm, optimizer, copies, compose):
    config = resolve(compose("data=patterns", f"norm={norm}", "model.width=8", "device=cpu", *optimizer.split()))
    numbers = sum(parameter.numel() for parameter in build.make_model(config, [0]).parameters())
    assert build.memory_of(config) == 4 * copies * numbers


def test_a_stack_beyond_memory_is_refused_and_one_within_is_not(compose, monkeypatch):
    config = resolve(compose("data=patterns", "model.width=8", "device=cpu", "replicates=4", "stack=4"))
    each = build.memory_of(config)
    monkeypatch.setattr(build, "memory", lambda device: 4 * each)
    build.check_memory(config)
    monkeypatch.setattr(build, "memory", lambda device: 4 * each - 1)
    with pytest.raises(InputError, match=r"^stack=4: 4 networks .* lower stack$"):
        build.check_memory(config)
    monkeypatch.setattr(build, "memory", lambda device: None)
    build.check_memory(config)


def test_a_batch_beyond_memory_is_refused(compose, monkeypatch):
    """The maps of ResNet-8's seven convolutions: three of 8×32², two of 16×16², two of 32×8²."""
    stacked = ("batch_size=64", "replicates=2", "stack=2")
    config = resolve(compose("data=patterns", "model.width=8", "device=cpu", *stacked))
    each = 64 * 4 * (3 * 8 * 32**2 + 2 * 16 * 16**2 + 2 * 32 * 8**2)
    monkeypatch.setattr(build, "memory", lambda device: 2 * each)
    check_network(config)
    monkeypatch.setattr(build, "memory", lambda device: 2 * each - 1)
    with pytest.raises(InputError, match=r"^stack=2: 2 networks need at least .* maps of a batch.* lower stack$"):
        check_network(config)
    monkeypatch.setattr(build, "memory", lambda device: each - 1)
    with pytest.raises(InputError, match=r"^batch_size=64: 1 network needs .* lower batch_size$"):
        check_network(config)
