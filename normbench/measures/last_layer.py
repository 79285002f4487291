"""The gradient by the weight of the last layer before the classifier, at initialization.

Of a transformer it is the outer linear layer of the last block. With norms after the sums it is of the same size at
every depth; with norms before them it falls with the root of the depth (Xiong et al. 2020, arXiv 2002.04745, theorem 1:
O(d√ln d) against O(d√(ln d/L)), L blocks of width d), which is why the first needs its warm-up.
"""

import time

import torch

from normbench.measures.alike import with_cost
from normbench.measures.start import at_start, looked_at
from normbench.norms.plain import Conv2d, Linear
from normbench.tasks.classify import batch_loss


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: the norm of the gradient on its first batch; no rows."""
    started = time.perf_counter()
    session.begin(task.seeds, len(task.seeds), 0)
    entries = []
    for seed in task.seeds:
        norm = last_gradient(*at_start(config, task, seed), config.augment.label_smoothing)
        entries.append({"seed": seed, "status": "finished", "last_gradient": norm})
        session.step(0, lambda: None)
    return with_cost(entries, started), []


def last_gradient(model, x: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> float:
    """‖∂loss/∂weight‖ of the last convolution or linear layer before the classifier, in training mode.

    model: of one replicate; it is as before afterwards. x: inputs N×3×H×W, labels: N.
    """
    *_, last, _ = (module for module in model.modules() if isinstance(module, Conv2d | Linear))
    with looked_at(model):
        [gradient] = torch.autograd.grad(batch_loss(model, x, labels, label_smoothing), [last.weight])
    return torch.linalg.vector_norm(gradient.double()).item()
