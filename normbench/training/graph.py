"""A training step as a CUDA graph: recorded once, then replayed with another batch and another rate in their places."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace

import torch

WARM_UP = 3  # steps that are taken as they are before one is recorded: what torch allocates for good, it does in them


@dataclass
class _Form:
    """Steps that are alike in all but the values of tensors. made: what the recorded one gives; gradients: likewise."""

    seen: int = 0
    graph: object = None
    batch: object = None
    made: tuple = ()
    gradients: tuple = ()


class Recorded:
    """`take`, without the time that Python and each start of a kernel take: a graph for every form of step.

    take(batch, share, measured): a step of training on a batch, a dataclass of tensors, and of such; it returns tensors
    and Nones. form(share): what decides, beside the sizes of the batch and `measured`, which operations a step is. The
    rate has to be a tensor of the optimizer's. On the CPU, where nothing can be recorded, each step is taken from the
    places that the batch is put in.
    """

    def __init__(self, take: Callable, form: Callable[[float], object], parameters, device: str):
        self.take, self.form, self.parameters, self.device = take, form, parameters, device
        self.forms: dict[tuple, _Form] = {}

    def __call__(self, batch, share: float, measured: bool) -> tuple:
        sizes = tuple((one.shape, one.dtype, one.stride()) for one in tensors(batch))
        form = self.forms.setdefault((sizes, self.form(share), measured), _Form())
        form.seen += 1
        if form.seen <= WARM_UP:
            return self._beside(batch, share, measured)
        if form.batch is None:
            form.batch = mapped(batch, torch.clone)
            if self.device != "cpu":
                self._record(form, share, measured)
        for place, one in zip(tensors(form.batch), tensors(batch), strict=True):
            place.copy_(one)
        if form.graph is None:
            return self.take(form.batch, share, measured)
        form.graph.replay()
        for parameter, gradient in form.gradients:
            parameter.grad = gradient
        return tuple(None if one is None else one.clone() for one in form.made)

    def _beside(self, batch, share, measured) -> tuple:
        """A step on a stream of its own, as CUDA asks for before one is recorded."""
        if self.device == "cpu":
            return self.take(batch, share, measured)
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            made = self.take(batch, share, measured)
        here.wait_stream(beside)
        return made

    def _record(self, form: _Form, share, measured) -> None:
        form.graph = torch.cuda.CUDAGraph()
        for parameter in self.parameters:
            parameter.grad = None  # those of a graph lie in its own memory
        with torch.cuda.graph(form.graph):
            form.made = self.take(form.batch, share, measured)
        form.gradients = tuple((one, one.grad) for one in self.parameters if one.grad is not None)


def tensors(batch) -> Iterator[torch.Tensor]:
    """Those of a dataclass of tensors and of such, None left out."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, torch.Tensor):
            yield value
        elif is_dataclass(value):
            yield from tensors(value)


def mapped(batch, of: Callable[[torch.Tensor], torch.Tensor]):
    """The same with other tensors."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    of_them = {name: of(one) for name, one in values.items() if isinstance(one, torch.Tensor)}
    of_them |= {name: mapped(one, of) for name, one in values.items() if is_dataclass(one)}
    return replace(batch, **of_them)
