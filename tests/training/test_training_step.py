"""What a step computes, against plain PyTorch and torchvision in float64."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normbench.config.overrides import normalize, plan
from normbench.config.rates import scaled_lr
from normbench.config.resolve import resolve
from normbench.data import load_dataset
from normbench.norms import NORMS
from normbench.norms.plain import Conv2d, Linear
from normbench.random import derive
from normbench.tasks.build import make_model
from normbench.training.optimizer import (
    clip_gradients,
    gradient_norms,
    make_optimizer,
    set_lr,
)
from normbench.training.schedule import configured_plan, lr_factor


def config(*overrides):
    jobs, _, _ = plan(normalize(["data=patterns", *overrides]), False)
    return resolve(jobs[0].config)


class PlainResNet8(nn.Module):
    """He's ResNet-8 written out with torch's own layers."""

    def __init__(self):
        super().__init__()
        self.first, self.first_bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        sizes = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        self.convs1 = nn.ModuleList(nn.Conv2d(i, o, 3, s, 1, bias=False) for i, o, s in sizes)
        self.convs2 = nn.ModuleList(nn.Conv2d(o, o, 3, 1, 1, bias=False) for _, o, _ in sizes)
        self.bns1 = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _ in sizes)
        self.bns2 = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _ in sizes)
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.first_bn(self.first(x)))
        for conv1, bn1, conv2, bn2 in zip(self.convs1, self.bns1, self.convs2, self.bns2, strict=True):
            y = bn2(conv2(F.relu(bn1(conv1(x)))))
            if y.shape != x.shape:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            x = F.relu(x + y)
        return self.last(x.mean((2, 3)))

    def weights(self):
        yield self.first
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            yield from (conv1, conv2)
        yield self.last


def test_a_whole_run_equals_a_plain_pytorch_loop(run):
    """Same first weights, same order, no augmentation: the losses and accuracies of a loop written with torch alone."""
    result, rows, _ = run(
        "norm=batch", "model.width=16", "augment=none", "precision=float64", "augment.label_smoothing=0.1", "seed=3",
        "optim.schedule=step", "optim.lr=0.1", "evaluation.precise_images=0",
    )  # fmt: skip
    data = load_dataset("patterns", root=None, train_size=96, val_size=100, test_size=100)
    net = PlainResNet8().double()
    drawn = torch.Generator().manual_seed(derive(3, "init"))
    with torch.no_grad():
        for layer in net.weights():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.empty(10, 64).uniform_(-1 / 8, 1 / 8, generator=drawn))
                layer.bias.zero_()
            else:
                std = math.sqrt(2 / layer.weight[0].numel())
                layer.weight.copy_(torch.empty(layer.weight.shape).normal_(0, std, generator=drawn))
    decayed = {id(layer.weight) for layer in net.weights()}
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in net.parameters() if id(p) in decayed], "weight_decay": 5e-4},
            {"params": [p for p in net.parameters() if id(p) not in decayed]},
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )

    data_mean, data_std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (data.mean, data.std))

    def inputs(part):
        return (part.permute(0, 3, 1, 2).double() / 255 - data_mean) / data_std

    for epoch in range(2):
        order = torch.randperm(96, generator=torch.Generator().manual_seed(derive(3, "order", epoch)))
        net.train()
        losses = []
        for step in range(12):
            samples = 96 * epoch + 8 * step
            factor = (samples + 8) / 9 if samples < 9 else 0.1 ** ((samples >= 96) + (samples >= 144))
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * 8 / 128 * min(factor, 1)
            batch = order[8 * step : 8 * step + 8]
            loss = F.cross_entropy(net(inputs(data.train_images[batch])), data.train_labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        net.eval()
        with torch.no_grad():
            logits = net(inputs(data.val_images))
        assert float(rows[epoch]["train_loss"]) == pytest.approx(sum(losses) / 12, rel=1e-9)
        assert float(rows[epoch]["val_loss"]) == pytest.approx(
            F.cross_entropy(logits, data.val_labels).item(), rel=1e-9
        )
        accuracy = 100 * (logits.argmax(1) == data.val_labels).double().mean().item()
        assert float(rows[epoch]["val_acc"]) == pytest.approx(accuracy)
    with torch.no_grad():
        logits = net(inputs(data.test_images))
    entry = result["replicates"][0]
    assert entry["test_loss"] == pytest.approx(F.cross_entropy(logits, data.test_labels).item(), rel=1e-9)


def optim(**options):
    return SimpleNamespace(
        **({"warmup_samples": 0, "schedule": "cosine", "milestones": [0.5, 0.75], "gamma": 0.1} | options)
    )


def test_schedules():
    # warm-up: linear in samples, its end reached whatever the batch size
    for batch in (2, 8, 32):
        factors = [lr_factor(s, batch, 1000, optim(warmup_samples=64)) for s in range(0, 64, batch)]
        assert factors == pytest.approx([(s + batch) / 64 for s in range(0, 64, batch)])
    # cosine: 1 at its start, 1/2 half way, 0 at the end
    cosine = optim(warmup_samples=200)
    assert [lr_factor(s, 1, 1000, cosine) for s in (200, 600, 1000)] == pytest.approx([1, 0.5, 0], abs=1e-12)
    steps = optim(schedule="step")
    assert [lr_factor(s, 1, 1000, steps) for s in (0, 499, 500, 749, 750, 999)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert lr_factor(999, 1, 1000, optim(schedule="constant")) == 1
    smooth = optim(schedule="exponential", gamma_every=0.25, warmup_samples=200)
    assert [lr_factor(s, 1, 1000, smooth) for s in (100, 200, 450, 700)] == pytest.approx([0.505, 1, 0.1, 0.01])
    assert [scaled_lr(0.1, 32, rule) for rule in ("linear", "sqrt", "none")] == pytest.approx([0.025, 0.05, 0.1])


def test_exponential_decay_is_torchs():
    """Over 40 steps of 8 images, to a fifth over each third of them, from 5 times the rate on."""
    typed = ("data=patterns", "data.train_size=80", "batch_size=8", "epochs=4", "device=cpu", "lr_scaling=none")
    how = ("optim.schedule=exponential", "optim.gamma=0.2", "optim.gamma_every=0.3333", "optim.warmup_samples=0")
    cfg = resolve(plan(normalize([*typed, *how, "optim.lr=0.02", "optim.lr_factor=5"]), False)[0][0].config)
    found = configured_plan(cfg, SimpleNamespace(steps_per_epoch=10))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    torchs = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.2 ** (1 / (0.3333 * 40)))
    for step in range(found.steps):
        assert found.rate(step) == pytest.approx(torchs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        torchs.step()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_reaches_the_weights_of_convolutions_and_linear_layers_alone(norm, name):
    cfg = config(f"norm={norm}", f"optim={name}", f"model={NORMS[norm].model or 'resnet8'}")
    model = make_model(cfg, [0])
    optimizer = make_optimizer(model, cfg.optim)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    weights = {id(m.weight) for m in model.modules() if isinstance(m, Conv2d | Linear)}
    assert decayed == weights
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_gradient_norms_and_clipping_are_each_replicates_own():
    cfg = config("norm=group")
    stacked = make_model(cfg, [1, 2, 3]).double()
    x = torch.randn(4, 9, 32, 32, dtype=torch.float64)
    x[:, 6:] *= 50
    loss = lambda logits: logits.square().sum()  # noqa: E731
    loss(stacked(x)).backward()
    norms = gradient_norms(list(stacked.parameters()), 3)
    limit = float(norms.median())
    clip_gradients(list(stacked.parameters()), norms, limit)
    for r, seed in enumerate((1, 2, 3)):
        alone = make_model(cfg, [seed]).double()
        loss(alone(x[:, 3 * r : 3 * r + 3])).backward()
        norm = torch.nn.utils.clip_grad_norm_(alone.parameters(), limit)
        assert norms[r].item() == pytest.approx(norm.item(), rel=1e-9)
        for a, b in zip(stacked.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a.grad.chunk(3)[r], b.grad, rtol=1e-9, atol=1e-12)


def test_derived_seeds_differ_by_seed_purpose_and_counter():
    seeds = {derive(s, p, e) for s in range(20) for p in ("init", "order", "augment") for e in range(20)}
    assert len(seeds) == 1200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_parameter_learns_at_its_factor_of_the_rate():
    cfg = config("norm=skipinit")
    model = make_model(cfg, [0])
    scales = {parameter: 0.1 for name, parameter in model.named_parameters() if name.endswith("scale")}
    factors = scales | {model.classifier.weight: 3.0}
    optimizer = make_optimizer(model, cfg.optim, factors)
    set_lr(optimizer, 0.5)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates == {parameter: pytest.approx(0.5 * factors.get(parameter, 1)) for parameter in model.parameters()}
    decayed = {p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {m.weight for m in model.modules() if isinstance(m, Conv2d | Linear)}
    again = make_optimizer(model, cfg.optim, factors)
    again.load_state_dict(optimizer.state_dict())
    set_lr(again, 0.25)
    assert {p: 2 * group["lr"] for group in again.param_groups for p in group["params"]} == rates


def test_without_factors_the_groups_are_those_that_checkpoints_hold():
    cfg = config("norm=batch", "optim.weight_decay=0")
    model = make_model(cfg, [0])
    decayed, others = make_optimizer(model, cfg.optim).param_groups
    assert decayed["params"] == [m.weight for m in model.modules() if isinstance(m, Conv2d | Linear)]
    assert others["params"] == [p for p in model.parameters() if all(p is not q for q in decayed["params"])]
    assert "lr_factor" not in decayed | others


def test_a_method_lives_through_training(run, monkeypatch):
    """Prepared once with training images, told every step and its share of training; its factors reach the rates."""
    told, prepared, states = [], [], []

    def before_step(model, step, share):
        told.append((step, share))
        states.append(model.classifier.weight.detach().clone())

    method = replace(
        NORMS["none"],
        prepare=lambda model, inputs: prepared.append(tuple(inputs.shape)),
        before_step=before_step,
        lr_factor=lambda model: {model.classifier.weight: 0.0},
    )
    monkeypatch.setitem(NORMS, "none", method)
    result, _, _ = run("norm=none", "replicates=2", "stack=2")
    assert prepared == [(96, 6, 32, 32)]
    assert told == [(step, step / 24) for step in range(24)]
    assert all(torch.equal(state, states[0]) for state in states)
    assert result["status"] == "finished"
