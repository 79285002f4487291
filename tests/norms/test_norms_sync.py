"""sync_batch over real processes: K processes with a share of the batch each equal batch norm on the whole."""

import forked
import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional as F

from normbench.models import build_model
from normbench.norms import Layers
from normbench.norms.batch import SyncBatchNorm

C, STEPS = 3, 3
SPLITS = {"equal": (4, 4), "uneven": (3, 5), "lonely": (1, 7)}


def whole_batch(size, image=5):
    generator = torch.Generator().manual_seed(7)
    options = {"generator": generator, "dtype": torch.float64}
    return [
        (torch.randn(size, C, image, image, **options) * 3 + 2, torch.randn(size, C, image, image, **options))
        for _ in range(STEPS)
    ]


def affine(layer):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0, 1.5]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
    return layer


def train(layer, steps):
    """Outputs and gradients at every step; the parameters' gradients add up over the steps."""
    outputs = []
    for x, towards in steps:
        x = x.clone().requires_grad_()
        y = layer(x)
        y.backward(towards)
        outputs.append((y.detach(), x.grad))
    result = {"outputs": outputs, **{key: value for key, value in layer.named_buffers() if "running" in key}}
    return result | {f"{key} gradient": value.grad for key, value in layer.named_parameters()}


def train_net(model, images, labels):
    loss = F.cross_entropy(model(images)[0], labels, reduction="sum")
    loss.backward()
    return {"gradients": [p.grad for p in model.parameters()], "buffers": list(model.buffers())}


def net(norm):
    return build_model("resnet8", Layers(norm), width=4).double()


def images_and_labels():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64), torch.arange(8) % 10


def process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def mine(x, split):
        return x.split(split)[rank]

    results = {}
    for name, split in SPLITS.items():
        steps = [tuple(mine(x, split) for x in step) for step in whole_batch(8)]
        results[name] = train(affine(SyncBatchNorm(C).double()), steps)
    results["plain"] = train(
        SyncBatchNorm(C, affine=False).double(), [(mine(*s, (3, 5)), mine(t, (3, 5))) for *s, t in whole_batch(8)]
    )
    results["pixel"] = train(SyncBatchNorm(C).double(), [tuple(mine(x, (1, 1)) for x in s) for s in whole_batch(2, 1)])
    results["net"] = train_net(net("sync_batch"), *(mine(x, (3, 5)) for x in images_and_labels()))
    half = SyncBatchNorm(C)
    x = mine(whole_batch(8)[0][0].bfloat16(), (3, 5))
    results["bfloat16"] = (half(x), half.running_mean, half.running_var)
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_each_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sync")
    forked.server()
    multiprocessing.start_processes(process, (str(folder),), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def close(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


def compare(ours, expected):
    """Ours of each process with that of the whole batch."""
    for step, (y, gradient) in enumerate(expected["outputs"]):
        close(torch.cat([mine["outputs"][step][0] for mine in ours]), y)
        close(torch.cat([mine["outputs"][step][1] for mine in ours]), gradient)
    for key in ("running_mean", "running_var"):
        for mine in ours:
            close(mine[key], expected[key])
    keys = [key for key in expected if key.endswith("gradient")]
    for key in keys:
        close(sum(mine[key] for mine in ours), expected[key])
    return len(keys)


@pytest.mark.parametrize("split", SPLITS)
def test_two_processes_equal_batch_norm_on_the_whole_batch(of_each_process, split):
    expected = train(affine(nn.BatchNorm2d(C).double()), whole_batch(8))
    assert compare([results[split] for results in of_each_process], expected) == 2


def test_without_scale_and_shift(of_each_process):
    expected = train(nn.BatchNorm2d(C, affine=False).double(), whole_batch(8))
    assert compare([results["plain"] for results in of_each_process], expected) == 0


def test_one_value_in_each_process_is_enough(of_each_process):
    expected = train(nn.BatchNorm2d(C).double(), whole_batch(2, 1))
    assert compare([results["pixel"] for results in of_each_process], expected) == 2


def test_a_whole_network_has_the_gradients_of_the_whole_batch(of_each_process):
    expected = train_net(net("batch"), *images_and_labels())
    ours = [results["net"] for results in of_each_process]
    for *mine, gradient in zip(*(result["gradients"] for result in ours), expected["gradients"], strict=True):
        close(sum(mine), gradient)
    for result in ours:
        for mine, buffer in zip(result["buffers"], expected["buffers"], strict=True):
            close(mine, buffer)


def test_bfloat16_features_are_measured_in_float32(of_each_process):
    x = whole_batch(8)[0][0].bfloat16()
    exact = nn.BatchNorm2d(C)
    expected = exact(x.float())
    y = torch.cat([results["bfloat16"][0] for results in of_each_process])
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=2**-8, atol=2**-8)
    for _, mean, var in (results["bfloat16"] for results in of_each_process):
        torch.testing.assert_close(mean, exact.running_mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(var, exact.running_var, rtol=1e-5, atol=1e-5)
