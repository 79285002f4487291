"""R replicates side by side against each of them alone: the promise on which every many-seeds result rests."""

import pytest
import torch
from torch.nn import functional as F

from normbench.models import build_model, stack_states, take_replicate
from normbench.norms import NORMS, Layers
from normbench.norms.plain import Drawing

SEEDS = (11, 12, 13)
SMALL = {"num_groups": 2, "ghost_size": 3}  # fits the small nets and batches here
VARIANTS = [
    ("weight_norm", {"mean_only_bn": True}),
    ("weight_standardization", {"norm": "batch"}),
    ("weight_standardization", {"mode": "mean_only"}),
    ("weight_standardization", {"mode": "std_only"}),
    ("skipinit", {"initial": 0.5}),
    ("batch", {"affine": False}),
    ("lp_batch", {"p": "linf", "centre_first": False}),
    ("noisy_batch", {"normalize": False}),
    ("layer2d", {"affine": False}),
]
METHODS = [(name, {}) for name in NORMS if NORMS[name].model is None] + VARIANTS
NETS = [
    ("resnet18", 8),
    ("inception", 8),
    ("vgg", 32),
    ("mlp", 32),
    ("uniform", 8),
    ("conv4", 8),
]  # and the size of their images


def build(method, options, seeds, model="resnet8", **more):
    known = NORMS[method].options()
    options = {key: value for key, value in SMALL.items() if key in known} | options
    made = build_model(model, Layers(method, options, replicates=len(seeds)), seeds, width=4, **more)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for module in made.modules():
        if isinstance(module, Drawing):
            module.generators = generators
    return made


def batch(step, replicates, image=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(5, 3 * replicates, image, image, generator=generator, dtype=dtype)
    return images, torch.randint(10, (5, replicates), generator=generator)


def losses(model, images, labels):
    """Each replicate's mean loss."""
    return torch.stack([F.cross_entropy(*pair) for pair in zip(model(images), labels.unbind(1), strict=True)])


def train(model, steps, part=slice(None)):
    """Three steps of SGD; part: which channels and label columns. Returns the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    trace = []
    for images, labels in steps:
        channels = part if part == slice(None) else slice(3 * part.start, 3 * part.stop)
        loss = losses(model, images[:, channels], labels[:, part])
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        trace.append(loss.detach())
    return torch.stack(trace)


def close(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("replicates", [1, 3])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
def test_state_is_bit_for_bit_that_of_each_replicate(method, options, replicates):
    seeds = SEEDS[:replicates]
    together, alone = build(method, options, seeds), [build(method, options, (seed,)) for seed in seeds]
    state, states = together.state_dict(), [model.state_dict() for model in alone]
    stacked = stack_states(states)
    assert stacked.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(stacked[key], value)
        for index in range(replicates):
            taken = take_replicate(state, index, replicates)
            assert torch.equal(taken[key], states[index][key])
            assert taken[key].untyped_storage().nbytes() == taken[key].nbytes  # a copy, not a view of all
    alone[0].load_state_dict(take_replicate(state, replicates - 1, replicates))
    close(alone[0].state_dict()["classifier.weight"], states[-1]["classifier.weight"])


def check_training(method, options, seeds, model="resnet8", image=8):
    replicates = len(seeds)
    steps = [batch(step, replicates, image) for step in range(3)]
    together = build(method, options, seeds, model).double()
    trace = train(together, steps)
    images, _ = batch(9, replicates, image)
    logits = together.eval()(images)
    for index, seed in enumerate(seeds):
        alone = build(method, options, (seed,), model).double()
        start = {key: value.clone() for key, value in alone.state_dict().items()}
        close(trace[:, index], train(alone, steps, slice(index, index + 1))[:, 0])
        for key, value in alone.state_dict().items():
            close(take_replicate(together.state_dict(), index, replicates)[key], value)
        close(logits[index], alone.eval()(images[:, 3 * index : 3 * index + 3])[0])
        assert not any(torch.equal(value, start[key]) for key, value in alone.named_parameters())


@pytest.mark.parametrize("replicates", [1, 3])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
def test_three_steps_of_training_are_those_of_each_replicate(method, options, replicates):
    check_training(method, options, SEEDS[:replicates])


@pytest.mark.parametrize("method", ["batch", "group", "weight_norm"])
@pytest.mark.parametrize(("model", "image"), NETS)
def test_so_they_are_in_every_network(model, image, method):
    check_training(method, {}, SEEDS, model, image)


def test_so_they_are_of_a_method_for_one_network_alone():
    check_training("mean_field", {}, SEEDS, "mlp", 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
def test_a_nan_in_one_replicate_stays_there(method, options, dtype):
    def run(poison):
        model = build(method, options, SEEDS).to(dtype)
        images, labels = batch(0, 3, dtype=dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        if poison:
            images[:, 3:6] = float("nan")
        loss = losses(model, images, labels)
        loss.sum().backward()
        gradients = {key: value.grad for key, value in model.named_parameters()}
        return [
            take_replicate(gradients | model.state_dict() | {"loss": loss}, index, 3) for index in range(3)
        ], gradients

    (clean, gradients), (poisoned, _) = run(False), run(True)
    assert poisoned[1]["loss"].isnan().all()
    assert poisoned[1]["classifier.weight"].isfinite().all()  # the state; its gradient is not
    for index in (0, 2):
        assert gradients.keys() <= clean[index].keys()
        for key, value in clean[index].items():
            assert torch.equal(value, poisoned[index][key]), key
