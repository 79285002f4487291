"""What passes along the steps of a recurrent network: how large, and how much of the gradient comes back.

Of a stable network what its gates are given is as large at one step as at another, and the gradient at the first hidden
state as large as at the last (Ba et al. 2016, arXiv 1607.06450, §1: layer normalization is to keep the one from growing
or shrinking, and so the other from exploding or vanishing).
"""

import time

import torch

from normbench.errors import InputError
from normbench.measures.alike import entries_of, significant
from normbench.measures.start import looked_at
from normbench.measures.trained import begun
from normbench.models.lstm import LSTM
from normbench.tasks.build import check_network, make_model
from normbench.tasks.classify import mean_losses

DIGITS = 6  # significant ones, of a row


def check(config, processes: int) -> None:
    """Raises InputError as a training would, and for a model without steps."""
    check_network(config, processes)
    if not isinstance(make_model(config, [0]), LSTM):
        raise InputError("measure", "recurrent", f"looks at the steps of model=lstm, not model={config.model.name}")


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: how much the size of pre-activations varies over the steps, and the gradient that comes back; a
    row a step of the sequence and seed."""
    started = time.perf_counter()
    network = begun(config, task, session)
    network.draw_as_at(0, 0)
    count = min(config.batch_size, len(task.data.train_labels))
    labels = task.data.train_labels[:count].expand(len(task.seeds), -1)
    sizes, gradients = observe(network.model, task.first_inputs(count), labels)
    told, rows = [], []
    for seed, size, gradient in zip(task.seeds, sizes, gradients, strict=True):
        told.append(stability(size, gradient))
        rows += [
            {"seed": seed, "position": position, "preactivation": significant(one, DIGITS)}
            | {"gradient": significant(back, DIGITS)}
            for position, (one, back) in enumerate(zip(size.tolist(), gradient.tolist(), strict=True), 1)
        ]
    return entries_of(network, told, started), rows


def observe(model: LSTM, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Along the steps of a sequence, R×T each: ‖what the gates are given‖, the geometric mean over the batch, and
    ‖∂loss/∂h‖ of the hidden state that the step leaves, over the whole batch.

    One pass in training mode, after which the model is as before. x: N×(R·3)×32×32, labels: R×N.
    """
    given: list[torch.Tensor] = []
    hidden: list[torch.Tensor] = []
    hooks = [
        model.gates.register_forward_hook(lambda _, inputs, output: given.append(output.detach())),
        model.gates.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[1])),
        model.dropout.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0])),
    ]
    try:
        with looked_at(model):
            loss = mean_losses(model(x), labels).sum()
            gradients = torch.autograd.grad(loss, hidden[1:])  # the first state is 0, whatever the network
    finally:
        for hook in hooks:
            hook.remove()
    replicates = len(labels)
    *inner, last = gradients  # R×N×H; N×(R·H)
    inner.append(last.unflatten(1, (replicates, -1)).transpose(0, 1))
    sizes = torch.stack([torch.linalg.vector_norm(one.double(), dim=2).log().mean(1).exp() for one in given], 1)
    return sizes, torch.stack([torch.linalg.vector_norm(one.double(), dim=(1, 2)) for one in inner], 1)


def stability(sizes: torch.Tensor, gradients: torch.Tensor) -> dict[str, float | None]:
    """The outcomes, of one replicate: T each.

    preactivation_spread: the standard deviation of ln‖pre-activation‖ over the steps, 0 where it never changes.
    gradient_back: the gradient at the first step's hidden state over that at the last. gradient_back_drift: the
    magnitude of its natural logarithm. None where a value is 0 or not finite.
    """
    sizes, gradients = sizes.log(), gradients.log()
    back = gradients[0] - gradients[-1]
    spread = sizes.std(correction=0).item() if sizes.isfinite().all() else None
    whole = back.isfinite().item()
    return {
        "preactivation_spread": spread,
        "gradient_back": back.exp().item() if whole else None,
        "gradient_back_drift": back.abs().item() if whole else None,
    }
