"""What one step does to the loss, by its length: where it explodes, and what becomes of the channels on the way.

After Bjorck et al. 2018, arXiv 1806.02375: at the start of training, before a step on a batch with gradient g at w, the
loss of that batch at w − ηg relative to that at w; and the means and variances of channels from w to where it explodes.
"""

import math
import time

import torch

from normbench.config.sizes import samples_per_epoch
from normbench.errors import InputError
from normbench.measures.alike import entries_of, require_least, significant, training
from normbench.measures.gradients import convolutions
from normbench.measures.landscape import geometric
from normbench.measures.line import Line, next_batch_losses
from normbench.measures.start import looked_at
from normbench.records.metrics import STEP
from normbench.tasks.build import check_network, make_model
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import Plan

DIGITS = 4  # significant ones, of a row


def check(config, processes: int) -> None:
    """Raises InputError as a training would, and for numbers that cannot be."""
    check_network(config, processes)
    how = config.measure
    if not how.batches or not all(isinstance(one, int) and one >= 1 for one in how.batches):
        raise InputError("measure.batches", how.batches, "must be a list of integers ≥ 1")
    if (of := config.epochs * (samples_per_epoch(config) // config.batch_size)) < max(how.batches):
        raise InputError("measure.batches", how.batches, f"the training has {of} steps")
    if not how.low > 0:
        raise InputError("measure.low", how.low, "must be a number > 0")
    if not how.high > how.low:
        raise InputError("measure.high", how.high, f"must be a number above measure.low={how.low}")
    require_least(config, rates=2, shares=2)
    if not how.explodes > 1:
        raise InputError("measure.explodes", how.explodes, "must be a number > 1")
    with torch.random.fork_rng(devices=[]):
        of = len(convolutions(make_model(config, [0])))
    if not all(isinstance(one, int) and 1 <= one <= of for one in how.layers):
        wrong = f"must be a list of integers from 1 to {of}, the convolutions of model={config.model.name}"
        raise InputError("measure.layers", how.layers, wrong)


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """Train up to the last of the batches, and look before each. An entry a seed; a row a batch, η and seed, and one a
    layer and share of the first batch's way."""
    started, how = time.perf_counter(), config.measure
    plan = configured_plan(config, task)
    plan = Plan(max(how.batches) - 1, plan.rate, plan.share, plan.clip_norm, agc=plan.agc)
    session.begin(task.seeds, plan.steps, 0, images=config.batch_size * len(task.seeds))
    network = Network(config, task)
    looks = Looks(network, task, plan, how)
    looks.look()
    for _ in training(network, task, plan, session):
        looks.look()
    told = [looks.told(index) for index in range(len(task.seeds))]
    return entries_of(network, told, started, dict.fromkeys(outcome.name for outcome in STEP)), looks.rows


class Looks:
    """What is seen of networks before some of their steps. rows: of metrics.csv."""

    def __init__(self, network: Network, task, plan: Plan, how):
        self.network, self.task, self.plan, self.how = network, task, plan, how
        self.rates = geometric(how.low, how.high, how.rates)
        every = convolutions(network.model)
        self.layers = {place: every[place - 1] for place in how.layers or (1, (len(every) + 1) // 2, len(every))}
        self.ratios: list[torch.Tensor] = []  # a batch: rates × R
        self.rows: list[dict] = []

    def look(self) -> None:
        """Before the next step, if its batch is one of those; counted from 1. Nothing of the network is changed."""
        network, number = self.network, self.network.step + 1
        if number not in self.how.batches:
            return
        losses = next_batch_losses(network, self.task, self.plan.share(network.step))
        with looked_at(network.model), Line(network.parameters, losses) as line:
            ratios = relative_losses(line, self.rates)
            if not self.ratios:
                ends, _ = explosions(ratios, self.rates, self.how.explodes)
                self._note_channels(line, number, ends)
        self.ratios.append(ratios)
        self.rows += [
            {"seed": seed, "batch": number, "rate": _rounded(rate), "relative_loss": _rounded(ratio)}
            for index, seed in enumerate(network.seeds)
            for rate, ratio in zip(self.rates, ratios[:, index].tolist(), strict=True)
        ]

    @torch.no_grad()
    def _note_channels(self, line: Line, number: int, ends: torch.Tensor) -> None:
        """Rows of the channels' moments from w to w − ηg. ends: η of each replicate, R."""
        moments: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

        def watching(place):
            def watch(_, __, output):
                found = torch.var_mean(output.double(), (0, 2, 3), correction=0)
                moments[place] = tuple(one.view(len(ends), -1).cpu() for one in found)

            return watch

        hooks = [layer.register_forward_hook(watching(place)) for place, layer in self.layers.items()]
        try:
            for share in torch.linspace(0, 1, self.how.shares, dtype=torch.float64).tolist():
                line.go(share * ends)
                line.look_at_losses()
                self.rows += [
                    {"seed": seed, "batch": number, "rate": _rounded(share * ends[index].item())}
                    | {"layer": place, "share": _rounded(100 * share)}
                    | {"means": _text(means[index]), "variances": _text(variances[index])}
                    for index, seed in enumerate(self.network.seeds)
                    for place, (variances, means) in moments.items()
                ]
        finally:
            for hook in hooks:
                hook.remove()

    def told(self, index: int) -> dict[str, float]:
        """The outcomes of a replicate: geometric means over its batches, and the first one's."""
        ends, exploded, best, ratio = [], [], [], []
        for ratios in self.ratios:
            end, did = explosions(ratios, self.rates, self.how.explodes)
            ends.append(end[index].item())
            exploded.append(did[index].item())
            least, place = ratios[:, index].nan_to_num(math.inf).min(0)
            best.append(self.rates[place])
            ratio.append(least.item())
        return {
            "exploding_rate": _geometric(ends),
            "exploding_rate_first": ends[0],
            "exploded": 100 * sum(exploded) / len(exploded),
            "best_rate": _geometric(best),
            "best_ratio": _geometric(ratio),
        }


def relative_losses(line: Line, rates: list[float]) -> torch.Tensor:
    """L(w − ηg)/L(w) of each replicate: rates × R, infinite where it is not finite."""
    found = []
    for rate in rates:
        line.go(rate)
        found.append(line.look_at_losses() / line.losses)
    return torch.stack(found).nan_to_num(math.inf, math.inf)


def explosions(ratios: torch.Tensor, rates: list[float], limit: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest of the rates at which the ratio is above the limit, the largest of all where it nowhere is; and
    whether it is anywhere. ratios: rates × R; results R."""
    above = ratios > limit
    first = above.double().argmax(0).where(above.any(0), len(rates) - 1)
    return torch.tensor(rates, dtype=torch.float64)[first.cpu()].to(ratios.device), above.any(0)


def _geometric(values: list[float]) -> float | None:
    if not all(0 < value < math.inf for value in values):
        return None
    return math.exp(sum(map(math.log, values)) / len(values))


def _text(values: torch.Tensor) -> str:
    return " ".join(f"{value:.{DIGITS}g}" for value in values.tolist())


def _rounded(value: float) -> float | None:
    return significant(value, DIGITS) if math.isfinite(value) else None
