"""Internal covariate shift in the course of a training, as gradients see it and as distributions.

As gradients see it (Santurkar et al. 2018, arXiv 1805.11604, definition 2.1): how the gradient by a layer's weight
changes, on the same batch, when the layers before it have taken their step and it and those after it have not. A layer
is a convolution or linear layer with what normalizes and shifts its output, shortcuts' own left out of the count.

As distributions: what a unit, a channel at the middle of the map, gives for the same training images as training goes
on (Ioffe & Szegedy 2015, arXiv 1502.03167, §4.1). After its norm, what goes into the activation, and before it: the
first two moments after it are those that γ and β say, whatever came before.
"""

import time

import torch
from torch import nn

from normbench.errors import InputError
from normbench.measures.alike import entries_of, require_least, significant, training
from normbench.measures.start import looked_at
from normbench.norms.plain import Conv2d, Linear, Norm
from normbench.records.metrics import PERCENTILES, SHIFT
from normbench.tasks.build import check_network
from normbench.training.network import Network
from normbench.training.schedule import configured_plan

PLACES = ("after", "before")  # the norm
ENDS = ("", "_before")  # of the names of outcomes and columns there
DIGITS = 6  # significant ones, of a row


def check(config, processes: int) -> None:
    """Raises InputError as a training would, and for numbers that cannot be."""
    check_network(config, processes)
    require_least(config, every=1, images=2, units=1)
    if config.measure.layers < 0 or config.measure.layers == 1:
        raise InputError("measure.layers", config.measure.layers, "must be an integer ≥ 2, or 0 for none")


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """Train, and look every so many steps. An entry a seed; and a row a layer or unit, step and seed."""
    started, every = time.perf_counter(), config.measure.every
    plan = configured_plan(config, task)
    session.begin(task.seeds, plan.steps, 0, images=config.batch_size * len(task.seeds), epochs=config.epochs)
    network = Network(config, task)
    gradients, values = Gradients(network, task, config.measure.layers), Values(network, task, config.measure.images)
    values.note(0)
    earlier = gradients.weights()
    for _ in training(network, task, plan, session):
        if (network.step - 1) % every == 0:
            gradients.note(earlier, plan.share(network.step - 1))
        if network.step % every == 0:
            values.note(network.step)
            earlier = gradients.weights()
    told = [gradients.told(index) | values.told(index) for index in range(len(task.seeds))]
    told = [{outcome.name: one.get(outcome.name) for outcome in SHIFT} for one in told]
    for split in ("val", "test"):
        found = task.scores(network, split, lambda: session.poll(lambda: None))
        for one, score in zip(told, found, strict=True):
            one[f"{split}_acc"] = score["acc"]
    chance = task.lost_scores()["acc"]
    lost = dict.fromkeys(told[0]) | {"val_acc": chance, "test_acc": chance}
    rows = [
        {"seed": seed} | row
        for index, seed in enumerate(task.seeds)
        if not network.lost[index]
        for row in gradients.rows(index) + values.rows(index) + values.unit_rows(index, config.measure.units)
    ]
    return entries_of(network, told, started, lost), rows


# --- As gradients see it. ---------------------------------------------------------------------------------------------


def layers_of(model: nn.Module) -> list[tuple[nn.Parameter, list[nn.Parameter]]]:
    """The layers of a network, in its order: the weight, and all parameters that belong to it, itself included.

    What stands before the first one is that one's, and what stands in a shortcut that of the layer before.
    """
    first, found = [], []
    for name, module in model.named_modules():
        if isinstance(module, Conv2d | Linear) and "shortcut" not in name.split("."):
            found.append((module.weight, first if not found else []))
        (found[-1][1] if found else first).extend(module.parameters(recurse=False))
    return found


def spread_over(count: int, wanted: int) -> list[int]:
    """So many places from the first to the last of `count`, evenly; all where there are fewer."""
    if wanted >= count:
        return list(range(count))
    return [round(place * (count - 1) / (wanted - 1)) for place in range(wanted)]


class Gradients:
    """What the step of the layers before does to the gradient of a layer. count: layers that are looked at."""

    def __init__(self, network: Network, task, count: int):
        self.network, self.task, self.layers = network, task, layers_of(network.model)
        self.looked_at = spread_over(len(self.layers), count) if count else []
        self.found: list[tuple[int, int, torch.Tensor]] = []  # step, layer, 3×R: ‖G‖, ‖G − G′‖, cosine

    def weights(self) -> list[torch.Tensor]:
        """A copy of all parameters."""
        return [parameter.detach().clone() for parameter in self.network.parameters] if self.looked_at else []

    def note(self, earlier: list[torch.Tensor], share: float) -> None:
        """After a step, on its batch. earlier: `weights()` before it; share: of the training that lay behind it."""
        if not self.looked_at:
            return
        later = dict(zip(self.network.parameters, self.weights(), strict=True))
        of_before = dict(zip(self.network.parameters, earlier, strict=True))
        step = self.network.step - 1
        batch = self.task.batch(*divmod(step, self.task.steps_per_epoch))
        try:
            self._set(of_before, 0, len(self.layers))
            plain = self._by([self.layers[place][0] for place in self.looked_at], batch, share)
            for number, (place, gradient) in enumerate(zip(self.looked_at, plain, strict=True)):
                self._set(later, self.looked_at[number - 1] if number else 0, place)
                [other] = self._by([self.layers[place][0]], batch, share)
                self.found.append((step, place, compared(gradient, other, len(self.task.seeds))))
        finally:
            self._set(later, 0, len(self.layers))

    @torch.no_grad()
    def _set(self, values: dict, first: int, end: int) -> None:
        """Put these values into the layers from `first` to before `end`."""
        for _, parameters in self.layers[first:end]:
            for parameter in parameters:
                parameter.copy_(values[parameter])

    def _by(self, weights, batch, share: float) -> tuple[torch.Tensor, ...]:
        """The gradients of the training loss by some weights, in training mode; nothing else is changed."""
        network = self.network
        network.draw_as_at(*divmod(network.step - 1, self.task.steps_per_epoch))

        def forward(x):
            with network.precision():
                return network.model(x).to(network.dtype)

        with looked_at(network.model):
            losses, _ = self.task.losses(forward, batch, share)
            return torch.autograd.grad(losses.sum(), weights)

    def told(self, index: int) -> dict[str, float | None]:
        """The outcomes of a replicate: means over the steps and the layers but the first, whose shift is 0."""
        some = [numbers[:, index] for _, place, numbers in self.found if place > 0]
        if not some:
            return {}
        norm, change, cosine = torch.stack(some, 1)
        moved = change > 0
        if not moved.any():
            return {"ics_cosine": cosine.mean().item()}
        return {
            "ics": change[moved].log().mean().exp().item(),
            "ics_relative": (change[moved] / norm[moved]).log().mean().exp().item(),
            "ics_cosine": cosine.mean().item(),
        }

    def rows(self, index: int) -> list[dict]:
        names = ("gradient", "change", "cosine")
        return [
            {"step": step, "layer": place + 1} | dict(zip(names, _rounded(numbers[:, index].tolist()), strict=True))
            for step, place, numbers in self.found
        ]


def compared(one: torch.Tensor, other: torch.Tensor, replicates: int) -> torch.Tensor:
    """Of two gradients of R replicates, each replicate's by itself: ‖G‖, ‖G − G′‖ and their cosine, 3×R in float64."""
    g, h = (gradient.detach().double().reshape(replicates, -1).cpu() for gradient in (one, other))
    norms = (g * g).sum(1), (h * h).sum(1)
    cosine = (g * h).sum(1) / (norms[0] * norms[1]).sqrt()
    return torch.stack([norms[0].sqrt(), (g - h).square().sum(1).sqrt(), cosine])


# --- As distributions. ------------------------------------------------------------------------------------------------


class Values:
    """What units give for the first training images: of the first, the middle and the last convolution of a network."""

    def __init__(self, network: Network, task, images: int):
        self.network, self.images, self.replicates = network, images, len(task.seeds)
        self.inputs = task.first_inputs(images)
        pairs = with_norms(network.model)
        self.places = spread_over(len(pairs), 3)
        self.pairs = [pairs[place] for place in self.places]
        self.steps: list[int] = []
        # By place, a tensor a time: percentiles 3×R×C of the last layer; distances R of each layer to the time before.
        self.percentiles: dict[str, list[torch.Tensor]] = {place: [] for place in PLACES}
        self.distances: dict[str, list[torch.Tensor]] = {place: [] for place in PLACES}
        self.last: dict[str, list[torch.Tensor]] = {}

    @torch.no_grad()
    def note(self, step: int) -> None:
        """As the network stands, in training mode, by the statistics of those images."""
        seen = self._seen()
        self.steps.append(step)
        for place in PLACES:
            shares = torch.tensor(PERCENTILES, dtype=torch.float64) / 100
            self.percentiles[place].append(torch.quantile(seen[place][-1], shares, dim=1))
            if self.last:
                pairs = zip(self.last[place], seen[place], strict=True)
                self.distances[place].append(torch.stack([distance(a, b) for a, b in pairs]))
        self.last = seen

    def _seen(self) -> dict[str, list[torch.Tensor]]:
        """`after` and `before` → of each layer R×N×C in float64."""
        maps: dict[nn.Module, torch.Tensor] = {}

        def watch(module, _, output):
            middle = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
            maps[module] = middle.unflatten(1, (self.replicates, -1)).transpose(0, 1).double().cpu()

        modules = {module for pair in self.pairs for module in pair}
        hooks = [module.register_forward_hook(watch) for module in modules]
        try:
            with looked_at(self.network.model), self.network.precision():
                self.network.model(self.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return {place: [maps[pair[which]] for pair in self.pairs] for which, place in ((1, "after"), (0, "before"))}

    def told(self, index: int) -> dict[str, float | None]:
        """The outcomes of a replicate: medians over the units of the last layer, and means over units and times."""
        told = {}
        for place, end in zip(PLACES, ENDS, strict=True):
            drifts, ratios = drift(torch.stack(self.percentiles[place])[:, :, index])
            told[f"drift{end}"], told[f"width_ratio{end}"] = _median(drifts), _median(ratios)
            if self.distances[place]:
                told[f"distance{end}"] = _finite(torch.stack(self.distances[place])[:, :, index].nanmean().item())
        return told

    def rows(self, index: int) -> list[dict]:
        """A row a layer and time but the first: the distances to the time before."""
        rows = []
        for number, step in enumerate(self.steps[1:]):
            for layer, place in enumerate(self.places):
                both = [self.distances[where][number][layer, index].item() for where in PLACES]
                told = dict(zip(("distance", "distance_before"), _rounded(both), strict=True))
                rows.append({"step": step, "layer": place + 1} | told)
        return rows

    def unit_rows(self, index: int, count: int) -> list[dict]:
        """A row a unit of the last layer and time: its percentiles. Of so many units, the most typical first: those
        whose median wanders most nearly as far as that of the median unit."""
        drifts, _ = drift(torch.stack(self.percentiles["after"])[:, :, index])
        units = (drifts - drifts.nanmedian()).abs().nan_to_num(torch.inf).argsort(stable=True)[:count].tolist()
        rows = []
        for number, step in enumerate(self.steps):
            for unit in units:
                row = {"step": step, "layer": self.places[-1] + 1, "unit": unit}
                for where, end in zip(PLACES, ENDS, strict=True):
                    shares = _rounded(self.percentiles[where][number][:, index, unit].tolist())
                    row |= dict(zip((f"p{share}{end}" for share in PERCENTILES), shares, strict=True))
                rows.append(row)
        return rows


def with_norms(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """The convolutions of a network, those of shortcuts left out, each with the norm that follows it, or itself again
    where none does."""
    found: list[tuple[nn.Module, nn.Module]] = []
    for name, module in model.named_modules():
        if "shortcut" in name.split("."):
            continue
        if isinstance(module, Conv2d):
            found.append((module, module))
        elif isinstance(module, Norm) and found and found[-1][0] is found[-1][1]:
            found[-1] = (found[-1][0], module)
    return found


def distance(earlier: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    """Wasserstein's first distance between the values of a unit at two times, over their standard deviation at the
    first: R×N×C each → R, the mean over the units that vary, NaN where none does."""
    apart = (earlier.sort(1).values - later.sort(1).values).abs().mean(1)
    std = earlier.std(1, correction=0)
    return torch.where(std > 0, apart / std, torch.nan).nanmean(1)


def drift(percentiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the median of a unit wanders, over the mean width of its values, and its largest over its least width.

    percentiles: times × 3 × C; the width is the last less the first. Results: C, NaN for a unit without a width.
    """
    width = percentiles[:, 2] - percentiles[:, 0]
    way = percentiles[:, 1].diff(dim=0).abs().sum(0)
    lasts = (width > 0).all(0)
    return tuple(torch.where(lasts, one, torch.nan) for one in (way / width.mean(0), width.amax(0) / width.amin(0)))


def _median(values: torch.Tensor) -> float | None:
    return _finite(values.nanmedian().item())


def _finite(value: float) -> float | None:
    return value if value == value else None


def _rounded(values: list[float]) -> list[float]:
    return [significant(value, DIGITS) for value in values]
