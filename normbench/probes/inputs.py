"""What input normalization does before the first step: conditioning, curvature, and what float16 cannot hold.

Top down: the probe, its three measures, its words, its figure.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import nn

from normbench.analysis import drawing
from normbench.analysis.statistics import t_interval
from normbench.analysis.tables import markdown
from normbench.data.inputs import KINDS, Inputs
from normbench.errors import UserError
from normbench.probes import Findings, configurations
from normbench.random import derive
from normbench.runs.run import dataset
from normbench.tasks.classify import mean_losses
from normbench.training.loop import DTYPES, INIT_IMAGES, starting_network
from normbench.training.machine import cpu_threads

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
MATRICES = {  # which matrix X is, in words and by its marker in the figure
    "pixels": ("images × pixels' channels", "o"),
    "pixels, centred": ("the same less the mean image", "D"),
    "channels": ("pixels × channels", "s"),
}


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
        _text(conditions, networks),
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


def _text(conditions: pd.DataFrame, networks: pd.DataFrame) -> str:
    """summary.md below its facts."""
    condition_rows = [
        [kind, *(_condition_cell(row) for row in rows.set_index("matrix").loc[list(MATRICES)].itertuples())]
        for kind, rows in conditions.groupby("input", sort=False)
    ]
    network_rows = [
        [kind, norm, str(len(rows)), *(_interval_cell(rows[column]) for column in NETWORK_COLUMNS)]
        for (kind, norm), rows in networks.groupby(["input", "norm"], sort=False)
    ]
    return "\n\n".join(
        [
            "## Condition number of XᵀX",
            "λmax/λmin of the second moments, not centred, of the inputs as the network gets them; beside it that of "
            "the same inputs less the mean image, and that of the channels alone, every pixel a row. After > stands "
            "the most that float64 can tell: the smallest eigenvalues are lost in the rounding of the largest, or are "
            "0 (per_image makes every image sum to 0). Then follow how many eigenvalues can be told, and λmax over the "
            "smallest of those: the condition of the rest where it is far below the limit, else but a lower limit.",
            markdown(["input", *(words for words, _ in MATRICES.values())], "lrrr", condition_rows),
            "## At initialization",
            "Mean over n seeds with 95 % t interval; every seed sees the same images. λ: the largest and the smallest "
            "eigenvalue of the Hessian of the training loss by the parameters, with the batch's own statistics. "
            "float16: values in percent that would overflow (become infinite) and underflow (become 0), each cast by "
            "itself from a pass in higher precision; forward: inputs and the layers' outputs, backward: the gradients "
            "by those outputs and by the parameters, without loss scaling.",
            markdown(
                ["input", "norm", "n", *NETWORK_COLUMNS.values()], "llr" + "r" * len(NETWORK_COLUMNS), network_rows
            ),
        ]
    )


NETWORK_COLUMNS = {
    "loss": "loss, nats",
    "hessian_largest": "λ largest, nats",
    "hessian_smallest": "λ smallest, nats",
    "forward_overflow": "forward overflow, %",
    "forward_underflow": "forward underflow, %",
    "backward_overflow": "backward overflow, %",
    "backward_underflow": "backward underflow, %",
}


def _condition_cell(row) -> str:
    if row.rank == row.features:
        return f"{row.condition:.3g}"
    limit = 1 / (row.features * np.finfo(np.float64).eps)
    return f"> {limit:.2g} ({row.rank} of {row.features} told: {row.condition_nonzero:.3g})"


def _interval_cell(values: pd.Series) -> str:
    found = values[np.isfinite(values)]
    if found.empty:
        return "not finite"
    interval = t_interval(found)
    lost = f" (n = {interval.n})" if interval.n < len(values) else ""
    if interval.n == 1 or interval.low == interval.high:
        return f"{interval.estimate:.3g}{lost}"
    return f"{interval.estimate:.3g} [{interval.low:.3g}, {interval.high:.3g}]{lost}"


# --- In ink. ----------------------------------------------------------------------------------------------------------


@drawing.style()
def figure(conditions: pd.DataFrame, networks: pd.DataFrame, *, footer: str = "") -> Figure:
    """Condition numbers, largest eigenvalues and float16 side by side, a row for each input normalization.

    conditions, networks: the tables of `probe`. footer: a line of small print.
    """
    kinds = list(dict.fromkeys(conditions["input"]))
    drawn, (left, middle, right) = drawing.grid_of(3, sharey=True)
    left.set_yticks(range(len(kinds)), kinds)
    left.set_ylim(len(kinds) - 0.4, -0.6)

    for number, (matrix, (_, marker)) in enumerate(MATRICES.items()):
        rows = conditions[conditions["matrix"] == matrix]
        at = rows["input"].map(kinds.index) + 0.2 * (number - 1)
        look = {"ls": "none", "marker": marker, "ms": 4.5, "color": str(0.3 * number)}
        singular = rows["rank"] < rows["features"]
        left.plot(rows["condition_nonzero"][~singular], at[~singular], label=matrix, **look)
        left.plot(rows["condition_nonzero"][singular], at[singular], mfc="white", **look)
    left.set_xscale("log")
    _dress(left, "A  Condition number of XᵀX", "λmax/λmin (log scale)")

    looks = drawing.looks_of(networks["norm"])
    lanes = {norm: min(0.3, 0.8 / len(looks)) * (i - (len(looks) - 1) / 2) for i, norm in enumerate(looks)}
    for norm, rows in networks.groupby("norm", sort=False):
        at = rows["input"].map(kinds.index) + lanes[norm]
        _draw_means(middle, rows["hessian_largest"], at, looks[norm], f"norm={norm}")
        _draw_means(right, rows["forward_overflow"], at, looks[norm])
        _draw_means(right, rows["backward_underflow"], at, looks[norm], filled=False)
    positive = networks["hessian_largest"][networks["hessian_largest"] > 0]
    middle.set_xscale("log", nonpositive="clip")  # an interval that reaches 0 goes on to the edge
    if len(positive):
        middle.set_xlim(positive.min() / 2, positive.max() * 4)
    _dress(middle, "B  Largest Hessian eigenvalue", "λmax (nats, log scale)")
    right.set_xscale("symlog", linthresh=0.1)
    right.set_xlim(-0.02, 150)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for label, face in (("overflow, forward", "0.4"), ("underflow, backward", "white")):
        right.plot([], [], "o", ms=4.5, color="0.4", mfc=face, label=label)
    _dress(right, "C  Lost in float16, markers as in B", "share of values (%, log scale from 0.1)")

    counts = networks.groupby(["input", "norm"])["hessian_largest"].count()
    n = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()}–{counts.max()}"
    notes = [
        "A: open where λmin cannot be told from 0 in float64; then λmax over the smallest eigenvalue that can.",
        f"B, C: mean over n = {n} seeds, bars: 95 % t interval, small dots: the seeds.",
        "C: without loss scaling; overflow in the backward pass, not drawn, is at most "
        f"{networks['backward_overflow'].max():.2g} %.",
    ]
    drawing.finish(drawn, notes, footer)
    return drawn


def _draw_means(
    axes, values: pd.Series, at: pd.Series, look: drawing.Style, label: str = "", filled: bool = True
) -> None:
    """At each place the mean of its values, their interval, and the values."""
    found = {place: t_interval(group) for place, group in values.dropna().groupby(at)}
    for place, interval in found.items():
        axes.hlines(place, interval.low, interval.high, lw=0.8, color=look.colour)
    axes.plot(values, at, ".", ms=3.5, mew=0, alpha=0.5, color=look.colour)
    means = [interval.estimate for interval in found.values()]
    face = look.colour if filled else "white"
    axes.plot(means, list(found), look.marker, ms=4.5, mew=0.9, color=look.colour, mfc=face, label=label)


def _dress(axes, title: str, unit: str) -> None:
    """Title, below it what the markers are, and the axis."""
    axes.grid(True, axis="x")
    entries = len(axes.get_legend_handles_labels()[0])
    axes.set_title(title, pad=16 + 9 * ((entries - 1) // 3))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.03, 1),
        ncols=3,
        frameon=False,
        fontsize=6.5,
        handletextpad=0.1,
        columnspacing=0.8,
        borderaxespad=0.1,
    )
    axes.set_xlabel(unit)
