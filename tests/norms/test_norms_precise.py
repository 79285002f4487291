"""Precise statistics: exact moments of all the features instead of running averages."""

import pytest
import torch
from torch import nn

from normbench.norms.batch import (
    BatchNorm,
    GhostBatchNorm,
    MeanOnlyBatchNorm,
    SyncBatchNorm,
    has_running_statistics,
    precise_statistics,
)
from normbench.norms.sample import GroupNorm

KINDS = [BatchNorm, SyncBatchNorm, GhostBatchNorm, MeanOnlyBatchNorm]


def net(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), kind(4), nn.ReLU(), nn.Conv2d(4, 5, 3), kind(5)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for buffer in model.buffers():
            buffer.uniform_(0.5, 2)
    if kind is MeanOnlyBatchNorm:
        for layer in (model[1], model[4]):
            layer.running_var.fill_(1)
    return model


def batches(sizes=(7, 2, 5)):
    torch.manual_seed(1)
    return [torch.randn(n, 3, 8, 8, dtype=torch.float64) * n + n for n in sizes]


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def close(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_first_layer_has_the_moments_of_all_features_at_once(kind, training):
    model, inputs = net(kind).train(training), batches()
    before = state(model)
    features = model[0](torch.cat(inputs))
    with precise_statistics(model, lambda: [model(x) for x in inputs]):
        assert model.training is training
        close(model[1].running_mean, features.mean((0, 2, 3)))
        var = torch.ones(4) if kind is MeanOnlyBatchNorm else features.var((0, 2, 3))
        close(model[1].running_var, var.double())
        model[1].eval()
        mean, var = (moment.view(-1, 1, 1) for moment in (model[1].running_mean, model[1].running_var))
        y = (features - mean) / (var + model[1].eps) ** 0.5
        y = y if model[1].weight is None else y * model[1].weight.view(-1, 1, 1)
        close(model[1](features), y + model[1].bias.view(-1, 1, 1))
    assert same(model, before)


def test_later_layers_see_features_normalized_by_each_batch():
    model, inputs = net(BatchNorm).eval(), batches()
    alone = nn.BatchNorm2d(4).double()
    alone.load_state_dict(model[1].state_dict(), strict=False)
    with torch.no_grad():
        features = torch.cat([model[3](alone(model[0](x)).relu()) for x in inputs])
    with precise_statistics(model, lambda: [model(x) for x in inputs]):
        close(model[4].running_mean, features.mean((0, 2, 3)))
        close(model[4].running_var, features.var((0, 2, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_averages_come_back_after_an_exception(kind):
    model, inputs = net(kind), batches()
    before = state(model)

    def fails_half_way():
        model(inputs[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), precise_statistics(model, fails_half_way):
        pass
    assert same(model, before)

    def fails_inside():
        with precise_statistics(model, lambda: model(inputs[0])):
            assert not same(model, before)
            raise KeyError

    with pytest.raises(KeyError):
        fails_inside()
    assert same(model, before)
    model(inputs[0])  # collecting is over: training moves the averages again
    assert not same(model, before)


def test_moments_survive_a_mean_far_from_zero():
    layer = BatchNorm(1)
    x = torch.randn(64, 1, 4, 4) + 1000
    with precise_statistics(layer, lambda: [layer(part) for part in x.split(10)]):
        torch.testing.assert_close(layer.running_var, x.double().var((0, 2, 3)).float(), rtol=1e-5, atol=0)


def test_a_model_without_running_statistics_is_told_apart():
    assert all(has_running_statistics(net(kind)) for kind in KINDS)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), GroupNorm(4, num_groups=2))
    assert not has_running_statistics(model)
    with precise_statistics(model, lambda: model(torch.randn(1, 3, 5, 5))):
        pass
