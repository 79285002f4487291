"""The gradient by the weight of the last layer before the classifier, at initialization.

Of a transformer it is the outer linear layer of the last block. With norms after the sums it is of the same size at
every depth; with norms before them it falls with the root of the depth (Xiong et al. 2020, arXiv 2002.04745, theorem 1:
O(d√ln d) against O(d√(ln d/L)), L blocks of width d), which is why the first needs its warm-up.
"""

import time

import torch

from normbench.measures.alike import significant, with_cost
from normbench.measures.start import each_at_start, looked_at
from normbench.norms.plain import Conv2d, Linear
from normbench.tasks.classify import batch_loss

DIGITS = 6  # significant ones, of a row


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: the norm of that gradient on its first batch; a row a layer and seed, the classifier last."""
    started = time.perf_counter()
    entries, rows = [], []
    for seed, start in each_at_start(config, task, session):
        norms = weight_gradients(*start, config.augment.label_smoothing)
        entries.append({"seed": seed, "status": "finished", "last_gradient": norms[-2]})
        rows += [
            {"seed": seed, "layer": layer, "gradient": significant(norm, DIGITS)} for layer, norm in enumerate(norms, 1)
        ]
    return with_cost(entries, started), rows


def weight_gradients(model, x: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> list[float]:
    """‖∂loss/∂weight‖ of each convolution and linear layer, in the order of the network, in training mode.

    model: of one replicate; it is as before afterwards. x: inputs N×3×H×W, labels: N.
    """
    weights = [module.weight for module in model.modules() if isinstance(module, Conv2d | Linear)]
    with looked_at(model):
        gradients = torch.autograd.grad(batch_loss(model, x, labels, label_smoothing), weights)
    return [torch.linalg.vector_norm(gradient.double()).item() for gradient in gradients]
