"""Converted models in torch.export, torch.jit.script and torch.jit.trace."""

import io

import pytest
import torch
from torch import nn

from normbench.norms import NORMS, convert_norms

VARIANTS = [
    (name, {}) for name, method in NORMS.items() if not (method.of_branches or method.model) and method.norm_act is None
]
VARIANTS += [
    ("weight_norm", {"mean_only_bn": True}),
    ("weight_standardization", {"mode": "std_only"}),
    ("weight_standardization", {"mode": "mean_only", "norm": "batch"}),
    ("ghost_batch", {"ghost_size": 2}),
    ("lp_batch", {"p": "l2", "affine": False}),
    ("batch", {"scale": False}),
    ("lp_batch", {"p": "linf", "centre_first": False}),
]


def converted(name, options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2))
    return convert_norms(nn.Sequential(*model, nn.BatchNorm2d(8)), name, **options)


def exported(model, x):
    batch = torch.export.Dim("batch", min=2)
    # in training the number of ghost batches is part of the program
    fixed = model.training and hasattr(model[1], "ghost_size")
    program = torch.export.export(model, (x,), dynamic_shapes=None if fixed else ({0: batch},))
    return program.module()


def scripted(model, x):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    return torch.jit.load(file)


def traced(model, x):
    return torch.jit.trace(model, x, check_trace=False)


@pytest.mark.filterwarnings("ignore")  # torch's own: jit is deprecated
@pytest.mark.parametrize("make", [exported, scripted, traced])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_program_of_the_model_computes_what_it_does(name, options, training, make):
    if name == "online" and training:
        pytest.skip("samples in turn, and a backward pass of its own, are no program")
    x = torch.randn(6, 3, 8, 8)
    program = make(converted(name, options).train(training), x)
    model = converted(name, options).train(training)
    x = torch.randn(6, 3, 8, 8)
    if make is traced:  # traces ran once, on other images
        program.load_state_dict(model.state_dict())
    made = []
    for one in (program, model):
        torch.manual_seed(1)  # of noise
        made.append(one(x))
    torch.testing.assert_close(*made)
    for key, value in program.state_dict().items():  # running averages move alike
        torch.testing.assert_close(value, model.state_dict()[key])
