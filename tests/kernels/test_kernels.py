"""The native kernels against torch: in float64 to rounding, whatever the method, the network and the sizes."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from native_networks import METHODS, assert_same, compared, images, network, step
from torch import nn

from normbench.kernels import fastest, library, program, trace
from normbench.kernels.library import NoKernels
from normbench.kernels.native import Native
from normbench.kernels.trace import Unknown
from normbench.models import build_model
from normbench.norms import Layers
from normbench.norms.plain import Conv2d, Linear

try:
    library.library()
except NoKernels as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shortcut", ["pad", "projection"])
def test_every_method(method, shortcut):
    compared(network(method, shortcut=shortcut), images())


@pytest.mark.parametrize("model", ["resnet14", "resnet18", "preact_resnet8", "vgg", "inception", "conv4"])
@pytest.mark.parametrize("method", ["batch", "none", "group"])
def test_every_network(model, method):
    compared(network(method, model=model, width=4), images(size=(32, 32)))


@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
def test_pooling_at_the_edges(size):
    compared(network("none", model="inception", width=3), images(size=size))
    compared(network("none", model="vgg", width=3), images(size=(16, 18)))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 9), (13, 4), (32, 32)])
@pytest.mark.parametrize("method", ["batch", "none"])
def test_odd_sizes(size, method):
    compared(network(method, width=3), images(count=4, size=size))


@pytest.mark.parametrize("width", [1, 7, 16, 24])
@pytest.mark.parametrize("norm_position", ["before", "after"])
def test_odd_widths(width, norm_position):
    compared(network(replicates=1, width=width, norm_position=norm_position), images(replicates=1))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("method", ["ghost_batch", "group", "instance"])
def test_batches_of_any_number(count, method):
    compared(network(method), images(count))


class Bare(nn.Module):
    """Convolutions one after the other, of numbers of channels that fill no vector, and nothing between them."""

    def __init__(self, replicates=2):
        super().__init__()
        widths = (3, 5, 9, 2, 17, 6)
        self.convolutions = nn.Sequential(
            *(
                Conv2d(here, there, 3 if there % 2 else 1, stride=stride, padding=there % 2, replicates=replicates)
                for here, there, stride in zip(widths, widths[1:], (1, 2, 1, 2, 1), strict=False)
            )
        )
        self.classifier = Linear(widths[-1], 10, replicates=replicates)

    def forward(self, x):
        return self.classifier(self.convolutions(x).mean((2, 3)))


def test_convolutions_with_nothing_between():
    torch.manual_seed(0)
    compared(Bare().double(), images(size=(9, 8)), steps=3)


def test_dropout_and_zero_init_residual():
    layers = Layers("batch", replicates=2, zero_init_residual=True)
    model = build_model("resnet8", layers, (0, 1), width=6, dropout=0.5).double()
    other = copy.deepcopy(model)
    found = []
    for forward in (model, Native(other, 2)):
        torch.manual_seed(0)
        found.append(step(forward, model if forward is model else other, images()))
    assert_same(found[1], found[0], 1e-10)


def test_float32_is_as_near_to_the_truth_as_torchs():
    truth = network(width=16)
    single, x = copy.deepcopy(truth).float(), images(8, size=(16, 16))
    other = copy.deepcopy(single)
    exact, by_torch = step(truth, truth, x), step(single, single, x.float())
    by_us = step(Native(other, 2), other, x.float())
    for name, one in exact.items():
        if one.is_floating_point():
            ours, theirs = ((found[name].double() - one).norm() / one.norm() for found in (by_us, by_torch))
            assert ours < max(3 * theirs, 1e-6), name


@pytest.mark.parametrize("method", ["batch", "group", "skipinit"])
def test_a_replicate_is_the_same_alone_stacked_and_in_threads(method):
    """Bit for bit, in float32, with steps of SGD between."""
    together = network(method, replicates=3, dtype=torch.float32)
    alone = network(method, replicates=1, dtype=torch.float32)
    name_of = dict(together.named_parameters())
    with torch.no_grad():
        for name, parameter in alone.named_parameters():
            parameter.copy_(name_of[name].chunk(3)[1])
    x = images(replicates=3, dtype=torch.float32)
    ways = [(together, x, 1), (copy.deepcopy(together), x, 2), (alone, x[:, 3:6], 1)]
    found, threads = [], torch.get_num_threads()
    try:
        for model, batch, workers in ways:
            torch.set_num_threads(workers)
            native = Native(model, batch.shape[1] // 3)
            for _ in range(3):
                model.zero_grad()
                native(batch).square().sum().backward()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter -= 0.01 * parameter.grad
            found.append(model.state_dict())
    finally:
        torch.set_num_threads(threads)
    for name, one in found[0].items():
        assert torch.equal(one, found[1][name]), name
        assert torch.equal(one.chunk(3)[1], found[2][name]), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["batch", "group", "none"])
@pytest.mark.parametrize("width", [6, 16])
def test_a_weight_that_is_no_number_shows_in_its_replicate_alone(value, method, width):
    model = network(method, width=width, dtype=torch.float32).train()
    with torch.no_grad():
        model.blocks[1].branch[0][0].weight[0, 0, 1, 1] = value  # of replicate 0
    found = Native(copy.deepcopy(model), 2)(images(dtype=torch.float32))
    expected = model(images(dtype=torch.float32))
    assert not expected[0].isfinite().all()
    assert not found[0].isfinite().all()
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)


def test_numbers_too_small_to_be_normal():
    compared(network("none"), 1e-310 * images(), tolerance=1e-9)


def test_what_the_kernels_cannot_do_is_the_models():
    model = network()
    native, x = Native(model.train(), 2), images()
    seen = []
    hook = model.stem.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(native(x), model(x))
    assert len(seen) == 2
    hook.remove()
    hook = model.stem.register_full_backward_hook(lambda *_: seen.append(2))
    native(x).sum().backward()
    assert seen == [1, 1, 2]
    hook.remove()
    assert native._program(x.clone().requires_grad_()) is None
    assert native._program(x[:0]) is None
    model.eval()
    assert native._program(x) is None  # with gradients
    with torch.no_grad():
        assert native._program(x) is not None


def test_a_network_of_which_they_know_nothing():
    with pytest.raises(Unknown, match="no convolution"):
        Native(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), 1)


class Own(nn.Module):
    """A user's network: a convolution with a norm and an activation, what `between` does to maps, a linear layer."""

    def __init__(self, between=lambda own, x: x):
        super().__init__()
        layers = Layers("batch")
        self.first, self.between = nn.Sequential(*layers.conv_norm_act(3, 4, 3)), between
        self.bilinear, self.factor = nn.Bilinear(4, 4, 4), nn.Parameter(torch.tensor(2.0))
        self.classifier = layers.linear(4, 10)
        nn.init.normal_(self.classifier.weight)

    def forward(self, x):
        return self.classifier(self.between(self, self.first(x).mean((2, 3))))


@pytest.mark.parametrize(
    "between",
    [
        lambda own, x: x + 1,
        lambda own, x: x * own.factor,
        lambda own, x: own.bilinear(x, x),
        lambda own, x: own.bilinear(input1=x, input2=x),
    ],
)
def test_what_follows_in_a_users_network_is_torchs(between):
    compared(Own(between).double(), images(replicates=1))


def test_a_users_network_that_decides_by_numbers():
    model = Own(lambda own, x: x if x.sum() > 0 else -x)
    with pytest.raises(Unknown, match="TraceError"):
        Native(model, 1)


def test_a_norm_in_another_mode_than_its_network():
    model = network().train()
    model.stem[0][1].eval()
    assert torch.equal(Native(model, 2)(images()), model(images()))


def test_more_threads_than_there_are_places():
    model = network(replicates=300, width=1, dtype=torch.float32).train()
    x, threads = images(replicates=300, dtype=torch.float32), torch.get_num_threads()
    try:
        torch.set_num_threads(300)
        many = Native(model, 300)(x)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(many, Native(model, 300)(x))


def test_a_batch_has_one_backward_pass_and_two_batches_may_wait_for_theirs():
    model = network("none")
    native = Native(model, 2)
    one, two = native(images()).sum(), native(images(seed=5)).sum()
    two.backward()
    two_alone = [parameter.grad.clone() for parameter in model.parameters()]
    one.backward()
    model.zero_grad()
    native(images(seed=5)).sum().backward()
    assert all(torch.equal(a, b.grad) for a, b in zip(two_alone, model.parameters(), strict=True))
    again = native(images()).sum()
    again.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        again.backward()


@pytest.mark.parametrize("method", ["batch", "weight_norm"])
def test_gradients_add_up_and_pass_by_hooks(method):
    model = network(method)
    first = next(model.parameters())
    model.classifier.bias.requires_grad_(False)
    found = []
    for own in (model, copy.deepcopy(model)):
        forward, seen = own if own is model else Native(own, 2), []
        hooked, last = next(own.parameters()), own.classifier.weight
        hooked.register_hook(lambda gradient: 3 * gradient)
        last.register_post_accumulate_grad_hook(lambda one, seen=seen: seen.append(one.grad.clone()))
        for seed in (2, 5):
            forward(images(seed=seed)).square().sum().backward()
        assert len(seen) == 2
        assert own.classifier.bias.grad is None
        found.append({name: one.grad for name, one in own.named_parameters() if one.grad is not None})
    assert first.grad is not None
    assert_same(found[1], found[0], 1e-10)


# --- Where they come from. ---

ASK = """
from normbench.kernels.library import NoKernels, library
try:
    print(library()._name)
except NoKernels as error:
    print("none:", error)
"""


def asked(**environment):
    """What a process of its own loads: the path of the kernels, or why there are none."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_they_are_built_once_and_a_damaged_file_anew(tmp_path):
    built = Path(asked(XDG_CACHE_HOME=str(tmp_path)))
    assert built.parent == tmp_path / "normbench"
    assert list(built.parent.iterdir()) == [built]
    before = built.stat().st_mtime_ns
    assert asked(XDG_CACHE_HOME=str(tmp_path)) == str(built)
    assert built.stat().st_mtime_ns == before
    whole = built.read_bytes()
    built.write_bytes(whole[: len(whole) // 2])  # what would end the process that loads it
    again = Path(asked(XDG_CACHE_HOME=str(tmp_path)))
    assert (again.parent, again.stat().st_size) == (built.parent, len(whole))


def test_a_cache_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    assert Path(asked(XDG_CACHE_HOME=str(tmp_path / "file"))).name.startswith("kernels-")


def test_without_a_compiler(tmp_path):
    assert asked(CC="no-such-compiler") == "none: no C compiler (no-such-compiler)"
    assert asked(CC="false", XDG_CACHE_HOME=str(tmp_path)).startswith("none: false: ")


def test_kernels_that_cannot_be_are_refused_or_passed_over(compose, monkeypatch, capsys):
    from normbench.config.resolve import resolve
    from normbench.errors import InputError

    def way(*typed):
        config = resolve(compose("device=cpu", *typed))
        return fastest(config, model := network(), 2) is model

    assert not way("kernels=native")
    assert way("kernels=torch")
    assert way("precision=bfloat16")
    with pytest.raises(InputError, match=r"^kernels=native: precision=bfloat16"):
        way("kernels=native", "precision=bfloat16")

    def nothing():
        raise NoKernels("no C compiler (cc)")

    monkeypatch.setattr("normbench.kernels.native.library", nothing)
    with pytest.raises(InputError, match=r"^kernels=native: no C compiler"):
        way("kernels=native")
    assert way("batch_size=2")
    assert capsys.readouterr().err == "normbench: no C compiler (cc): the slower kernels of torch do\n"


# --- What C and Python both say. ---

KERNELS_C = (Path(library.FOLDER) / "kernels.c").read_text("utf-8")


@pytest.mark.parametrize(("name", "where"), [("kind", trace), ("norm", program), ("handed", program)])
def test_the_numbers_of_names_are_the_same_in_both(name, where):
    names = re.search(rf"enum {name} {{([^}}]*)}}", KERNELS_C)[1].replace(" ", "").split(",")
    assert [getattr(where, one) for one in names] == list(range(len(names)))


@pytest.mark.parametrize(("name", "structure"), [("map", "Map"), ("op", "Op"), ("program", "Layout")])
def test_the_fields_of_structures_are_the_same_in_both(name, structure):
    body = re.search(rf"struct {name} {{(.*?)}};", KERNELS_C, re.DOTALL)[1]
    lines = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL).split(";")
    declared = [re.sub(r"^(const )?(int64_t|double|struct \w+)", "", " ".join(line.split())) for line in lines]
    names = [re.sub(r"\[.*|\W", "", one) for line in declared for one in line.split(",")]
    assert [one for one in names if one] == [field for field, _ in getattr(program, structure)._fields_]


def test_the_most_lanes_are_the_same_in_both():
    assert int(re.search(r"#define MOST_LANES (\d+)", KERNELS_C)[1]) == program.MOST_LANES
