"""What input normalization does before the first step: conditioning, curvature, and what float16 cannot hold.

Top down: the probe, its three measures. In words and in ink: `normbench.analysis.inputs_page`.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import nn

from normbench.analysis.inputs_page import MATRICES, figure, text
from normbench.config import cpu_threads
from normbench.data.epoch import mean_losses
from normbench.data.inputs import KINDS, Inputs
from normbench.errors import UserError
from normbench.probes import Findings, configurations
from normbench.random import derive
from normbench.runs.run import dataset
from normbench.training.loop import DTYPES, INIT_IMAGES, starting_network

# What a probe measures unless other values are typed. Every seed sees the same images.
DEFAULTS = (
    f"data.input={','.join(KINDS)}",
    "norm=batch,none",
    "replicates=5",
    "batch_size=32",
    "device=cpu",
    "precision=float32",
)
IMAGES = 10_000  # of the training split, at most, in the matrix X


def probe(overrides: Iterable[str]) -> Findings:
    """Every input normalization, with each method, at initialization.

    overrides: as for a sweep; `data.input` and `norm` may have several values. `replicates` seeds from `seed` on, each
    with the first `batch_size` images of the training split, neither augmented nor shuffled.
    Raises UserError where another key has several values.
    """
    configs = configurations(overrides, DEFAULTS)
    arms = {(config.data.input, config.norm.name): config for config in configs}
    if len(arms) < len(configs):
        raise UserError("probe inputs: data.input and norm may have several values, any other key only one")
    config = configs[0]
    torch.set_num_threads(cpu_threads(config))
    data = dataset(config.device, OmegaConf.to_yaml(config.data))
    conditions, networks = [], []
    for kind in dict.fromkeys(kind for kind, _ in arms):
        conditions += _conditions(kind, data)
        for norm in (norm for other, norm in arms if other == kind):
            networks += _networks(arms[kind, norm], data)
        print(f"{kind}: measured", file=sys.stderr)
    conditions, networks = pd.DataFrame(conditions), pd.DataFrame(networks)
    scale = _scale(config, conditions, networks)
    return Findings(
        config,
        "Probe of input normalization",
        scale,
        text(conditions, networks),
        {"conditions": conditions, "networks": networks},
        figure(conditions, networks, footer=scale),
    )


def _conditions(kind: str, data) -> list[dict]:
    """Rows of conditions.csv: one of each matrix."""
    inputs = Inputs(kind, data.mean, data.std, "cpu", torch.float64, data.channel_scale)
    x = inputs(data.train_images[:IMAGES].cpu())
    pixels, channels = x.flatten(1), x.movedim(1, 3).flatten(0, 2)
    found = map(condition_number, (pixels, pixels - pixels.mean(0), channels))
    return [
        {"input": kind, "matrix": name} | asdict(condition) for name, condition in zip(MATRICES, found, strict=True)
    ]


def _networks(config, data) -> list[dict]:
    """Rows of networks.csv: one of each seed."""
    dtype, rows = DTYPES[config.precision], []
    inputs = Inputs(config.data.input, data.mean, data.std, config.device, dtype, data.channel_scale)
    x, labels = inputs(data.train_images[: config.batch_size]), data.train_labels[: config.batch_size]
    smoothing = config.augment.label_smoothing
    for seed in range(config.seed, config.seed + config.replicates):
        model, generators = starting_network(config, [seed], config.device, inputs(data.train_images[:INIT_IMAGES]))
        for generator in generators:
            generator.manual_seed(derive(seed, "dropout", 0, 0, 0))
        with torch.no_grad():
            loss = batch_loss(model, x, labels, smoothing).item()
        smallest, largest = hessian_extremes(model, x, labels, label_smoothing=smoothing)
        rows.append(
            {"input": config.data.input, "norm": config.norm.name, "seed": seed, "loss": loss}
            | {"hessian_largest": largest, "hessian_smallest": smallest}
            | asdict(float16_shares(model, x, labels, label_smoothing=smoothing))
        )
    return rows


# --- The three measures. ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """Of XᵀX, by its eigenvalues λ.

    condition: λmax/λmin, infinite where λmin cannot be told from 0. condition_nonzero: λmax over the smallest λ that
    can; the same where all can. rank: how many can. features, rows: of X.
    """

    condition: float
    condition_nonzero: float
    rank: int
    features: int
    rows: int


def condition_number(x: torch.Tensor) -> Condition:
    """The condition number of XᵀX, the second-moment matrix of the rows of X: not centred unless X is.

    x: rows × features; computed in float64. For a linear unit with squared loss XᵀX is the Hessian (but for a factor),
    and this ratio the scale of gradient descent's learning time; a mean other than 0 puts a large eigenvalue into it
    (LeCun, Kanter & Solla 1991, doi 10.1103/PhysRevLett.66.2396).
    An eigenvalue counts as 0 up to λmax · features · 2.2e-16, the rounding of the largest, as numpy.linalg.matrix_rank
    has it: with 3,072 features no condition number above 1.5e12 can be told from infinity.
    """
    rows, features = x.shape
    x = x.cpu().double().numpy()
    gram = x.T @ x if rows >= features else x @ x.T  # the same eigenvalues other than 0; numpy knows it is symmetric
    values = torch.linalg.eigvalsh(torch.from_numpy(gram)).numpy()
    told = values[values > values[-1] * features * np.finfo(np.float64).eps]
    nonzero = float(told[-1] / told[0]) if len(told) else np.inf
    return Condition(nonzero if len(told) == features else np.inf, nonzero, len(told), features, rows)


LANCZOS_VECTORS, LANCZOS_RESTARTS = 12, 50


def hessian_extremes(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of the Hessian of the loss by the parameters, in nats.

    model: of one replicate, in the mode that counts. x: inputs N×3×H×W, labels: N. seed: of the first vector.
    tolerance: a value is taken when its residual ‖Hv − λv‖ is at most this share of |λ|; that bounds the distance to an
    eigenvalue, and as a rule the error is of the order of its square. NaN where the loss or a product is not finite,
    and where 50 restarts with 12 vectors do not suffice.

    Lanczos' method (ARPACK) on Hessian-vector products by double backward, in the precision of the model. Power
    iteration, as in PyHessian (Yao et al. 2020, arXiv 1912.07145), finds the eigenvalue of largest magnitude alone,
    which with BN may be positive for one seed and negative for the next; Lanczos has both ends from fewer products.
    """
    parameters = list(model.parameters())
    loss = batch_loss(model, x, labels, label_smoothing)
    gradients = _flat(torch.autograd.grad(loss, parameters, create_graph=True))
    size = gradients.numel()

    def product(v):
        v = torch.from_numpy(v).to(gradients).flatten()
        return _flat(torch.autograd.grad(gradients, parameters, v, retain_graph=True)).cpu().numpy()

    start = torch.randn(size, generator=torch.Generator().manual_seed(derive(seed, "hessian"))).to(x.dtype).numpy()
    first = product(start)
    if not np.isfinite(first).all():
        return np.nan, np.nan
    if not first.any():  # ARPACK refuses: the loss is flat
        return 0.0, 0.0
    operator = LinearOperator((size, size), matvec=product, dtype=start.dtype)
    options = {"ncv": min(LANCZOS_VECTORS, size), "tol": tolerance, "maxiter": LANCZOS_RESTARTS}
    try:
        values = eigsh(operator, 2, which="BE", v0=start, return_eigenvectors=False, **options)
    except ArpackError:  # not converged, or not finite on the way
        return np.nan, np.nan
    return float(values.min()), float(values.max())


@dataclass(frozen=True)
class Float16Shares:
    """Values in percent: those that become infinite in float16, and those other than 0 that become 0.

    forward: of the inputs and of every layer's output. backward: of the loss's gradients by those outputs and by the
    parameters.
    """

    forward_overflow: float
    forward_underflow: float
    backward_overflow: float
    backward_underflow: float


def float16_shares(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> Float16Shares:
    """Which part of a forward and a backward pass float16 cannot hold: |value| from 65,520 on, or up to 2⁻²⁵.

    model: of one replicate, in the mode that counts. x: inputs N×3×H×W, labels: N. The pass is computed in their
    precision and each value is cast by itself, so that an overflow counts where it arises and not again in all that it
    would turn into NaN; kernels differ in what they accumulate in. Without loss scaling.
    """
    outputs = {}  # by identity: what a layer hands on unchanged is there once

    def note(layer, inputs, output):
        outputs[id(output)] = output

    layers = [module for module in model.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        loss = batch_loss(model, x, labels, label_smoothing)
    finally:
        for hook in hooks:
            hook.remove()
    outputs.pop(id(x), None)
    gradients = torch.autograd.grad(loss, [*outputs.values(), *model.parameters()])
    return Float16Shares(*_float16([x, *outputs.values()]), *_float16(gradients))


def _float16(tensors) -> tuple[float, float]:
    """Shares in percent that overflow and underflow. What is not finite already overflows."""
    over = under = count = 0
    for values in tensors:
        cast = values.detach().half()
        over += (~cast.isfinite()).sum().item()
        under += ((cast == 0) & (values != 0)).sum().item()
        count += values.numel()
    return 100 * over / count, 100 * under / count


def batch_loss(model, x: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """The training loss of one replicate on one batch, in nats. x: N×3×H×W, labels: N."""
    return mean_losses(model(x), labels.unsqueeze(0), label_smoothing).sum()


def _flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


# --- In words. --------------------------------------------------------------------------------------------------------


def _scale(config, conditions: pd.DataFrame, networks: pd.DataFrame) -> str:
    rows, features = conditions[["rows", "features"]].iloc[0]
    seeds, dtype = networks["seed"], str(DTYPES[config.precision]).removeprefix("torch.")
    return (
        f"{config.data.name}, X of {rows} training images × {features} features in float64; {config.model.name} at "
        f"initialization, loss on {config.batch_size} training images in {dtype}, "
        f"{seeds.nunique()} seeds ({seeds.min()} to {seeds.max()})"
    )
