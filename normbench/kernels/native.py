"""Networks on the kernels: what they know of a network in one call forward and one backward, the rest by torch."""

import ctypes

import torch
from torch import nn

from normbench.kernels.library import library
from normbench.kernels.program import Part, Program
from normbench.kernels.trace import EXPORT, IMPORT, Trace, Unknown
from normbench.norms.plain import Conv2d, Linear

_ANCHOR = torch.zeros((), requires_grad=True)  # a pass of which autograd is to know, though nothing goes through it


class Native:
    """A network as the kernels compute it: `native(x)` is `model(x)`, to rounding, with its parameters and buffers.

    In training mode by the statistics of the batch, with gradients; in evaluation without. Layers that they do not know
    are torch's, between two calls of theirs; an evaluation is then the model's as a whole, which is faster. So is all
    where there are hooks or layers in another mode, gradients by the images or of an evaluation. A replicate's numbers
    do not depend on how many there are, or on the threads. Raises NoKernels, or Unknown for a network of which they
    know nothing.
    """

    def __init__(self, model: nn.Module, replicates: int):
        self.model, self.replicates, self.kernels = model, replicates, library()
        self.trace, self.modules, self.programs = Trace(model), list(model.modules()), {}
        kinds = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
        self.hooks = [getattr(one, kind) for one in self.modules for kind in kinds]

    @property
    def mixed(self) -> bool:
        """Whether layers of torch's are between those of the kernels."""
        return len(self.trace.stages) > 1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: N×(R·C)×H×W, of float32 or float64, on the CPU. Returns R×N×classes."""
        program = self._program(x)
        if program is None:
            return self.model(x)
        values = {node: self.trace.attribute(node) for node in self.trace.attributes}
        values[self.trace.images] = x
        batch = _Batch(program)
        for part in program.parts:
            imported = [values[one.node] for one in part.imports]
            made = dict(zip(part.outputs, batch.forward(part, imported), strict=True))
            values |= {node: made[one] for node, one in self.trace.outputs.items() if one in made}
            for node in part.calls:
                values[node] = self.trace.execute(node, values)
        batch.end()
        return values[node]  # the last is the output

    def _program(self, x: torch.Tensor) -> "_Sized | None":
        """The program for such a batch; None where it is the model's."""
        training = self.model.training
        if torch.is_grad_enabled() and (x.requires_grad or not training):
            return None
        if self.mixed and not training:
            return None
        if any(self.hooks) or any(one.training is not training for one in self.modules):
            return None
        key = (x.shape, x.dtype, training)
        if key not in self.programs:
            try:
                self.programs[key] = _Sized(self, x.shape, x.dtype, training)
            except Unknown:
                self.programs[key] = None
        return self.programs[key]


class _Sized(Program):
    """A program with its memory."""

    def __init__(self, native: Native, shape, dtype, training: bool):
        lanes = native.kernels.vector_bytes() // dtype.itemsize
        threads = torch.get_num_threads()
        self.teams = min(threads, native.replicates)
        self.members = min(threads // self.teams, shape[0] or 1)
        super().__init__(native.trace, shape, native.replicates, dtype, training, lanes, self.members)
        self.call = native.kernels.run_float if dtype.itemsize == 4 else native.kernels.run_double
        self.getters = [[_getter(module, name) for module, name in part.sources] for part in self.parts]
        self.free: list[torch.Tensor] = []  # maps that no backward pass waits for
        self.own = self._memory(self.teams * self.scratch)

    def _memory(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=self.dtype)

    def take(self) -> torch.Tensor:
        return self.free.pop() if self.free else self._memory(self.replicates * self.kept)

    def tensors(self, part: Part) -> list[torch.Tensor]:
        return [get() for get in self.getters[part.number]]

    def forward(self, part: Part, imported, tensors, kept) -> list[torch.Tensor]:
        if [one.shape for one in imported] != part.shapes:
            raise RuntimeError("a layer makes maps of other sizes in training than in evaluation")
        made = []
        for one in part.outputs:
            form = torch.channels_last if one.kind == EXPORT else torch.contiguous_format
            made.append(torch.empty(self.size_of(one), dtype=self.dtype, memory_format=form))
        self._strides("strides", part, imported, made)
        self._run(part, [*imported, *made, *map(_ready, tensors)], [], kept, 0)
        return made

    def backward(self, part: Part, tensors, kept, gradients) -> tuple[list, list]:
        """The gradients by what was imported and by each of the tensors; None for those that want none."""
        ready = [_ready(one) for one in tensors]
        gradients = [one if one.dim() == 4 else one.contiguous() for one in gradients]
        own = [
            torch.empty_like(one) if wanted.requires_grad else None for one, wanted in zip(ready, tensors, strict=True)
        ]
        imported = [
            torch.empty(shape, dtype=self.dtype, memory_format=torch.channels_last) if one.x else None
            for one, shape in zip(part.imports, part.shapes, strict=True)
        ]
        self._strides("gradient_strides", part, imported, gradients)
        nothing = [None] * (len(imported) + len(gradients))
        self._run(part, [*nothing, *ready], [*imported, *gradients, *own], kept, 1)
        return imported, own

    def _strides(self, name: str, part: Part, imported, made) -> None:
        for op in self.ops[slice(*part.ops)]:
            if op.kind in (IMPORT, EXPORT):
                tensor = imported[op.tensor[0]] if op.kind == IMPORT else made[op.tensor[0] - len(imported)]
                if tensor is not None:
                    getattr(op, name)[:] = tensor.stride()

    def _run(self, part: Part, tensors, gradients, kept, backward: int) -> None:
        self.call(
            ctypes.addressof(part.layout),
            _pointers(tensors),
            _pointers(gradients),
            kept.data_ptr(),
            self.own.data_ptr(),
            backward,
            self.teams,
            self.members,
        )


def _ready(tensor: torch.Tensor) -> torch.Tensor:
    """Filters with their input channels innermost, as the kernels read them."""
    return tensor.contiguous(memory_format=torch.channels_last if tensor.dim() == 4 else torch.contiguous_format)


def _pointers(tensors) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(None if one is None else one.data_ptr() for one in tensors))


def _getter(module: nn.Module, name: str):
    """What gives a module's tensor, or its filters where it computes them."""
    if name == "filters" and type(module).filters not in (Conv2d.filters, Linear.filters):
        return module.filters
    name = "weight" if name == "filters" else name
    table = module._parameters if name in module._parameters else module._buffers
    return lambda: table[name]  # what getattr does in six times the time


def _direct(tensor: torch.Tensor) -> bool:
    """Whether nobody waits for a gradient on its way to `.grad`."""
    return tensor.is_leaf and not tensor._backward_hooks and not tensor._post_accumulate_grad_hooks


class _Batch:
    """A batch on its way through the parts of a program, and the gradients on theirs back.

    Each part is a node of autograd's. One that comes later is handed a number by the one before, so that it goes back
    first whatever torch does between: the gradients by maps that both have are then complete.
    """

    def __init__(self, program: _Sized):
        self.program, self.kept = program, program.take()
        self.done: list[tuple[Part, list]] = []  # parts with their tensors that have gone forward, but not back
        self.link = _ANCHOR

    def forward(self, part: Part, imported) -> list[torch.Tensor]:
        tensors = self.program.tensors(part)
        if not torch.is_grad_enabled():
            return self.program.forward(part, imported, tensors, self.kept)
        through = [one for one in tensors if one.requires_grad and not _direct(one)]
        made = list(_Run.apply(self, part, tensors, self.link, *imported, *through))
        if len(made) > len(part.outputs):
            self.link = made.pop()
        return made

    def end(self) -> None:
        """The forward pass is over."""
        self.link = None
        if not self.done:
            self.program.free.append(self.kept)

    def backward(self, part: Part, gradients) -> tuple[list, list, list]:
        """The tensors of a part, and the gradients by what was imported and by them."""
        if part.number >= len(self.done):
            raise RuntimeError("the kernels keep a batch's maps for one backward pass")
        while part.number < len(self.done) - 1:  # the loss does not depend on what this one made
            later, tensors = self.done.pop()
            nothing = [torch.zeros(self.program.size_of(one), dtype=self.program.dtype) for one in later.outputs]
            self.program.backward(later, tensors, self.kept, nothing)
        _, tensors = self.done.pop()
        imported, own = self.program.backward(part, tensors, self.kept, gradients)
        if not self.done:
            self.program.free.append(self.kept)
        return tensors, imported, own


class _Run(torch.autograd.Function):
    """The two calls of a part.

    Gradients by parameters go straight to their `.grad`, as autograd accumulates them, which would take a third of a
    small network's backward pass over it; what is computed from parameters, or has hooks, gets its own through it.
    """

    @staticmethod
    def forward(ctx, batch: _Batch, part: Part, tensors, link, *inputs):
        made = batch.program.forward(part, inputs[: len(part.imports)], tensors, batch.kept)
        batch.done.append((part, tensors))
        ctx.batch, ctx.part = batch, part
        return (*made, *[torch.zeros(()) for _ in batch.program.parts[part.number + 1 :][:1]])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        tensors, imported, owns = ctx.batch.backward(ctx.part, gradients[: len(ctx.part.outputs)])
        through = []
        for one, own in zip(tensors, owns, strict=True):
            if own is None:
                continue
            if not _direct(one):
                through.append(own)
            elif one.grad is None:
                one.grad = own
            else:
                one.grad += own
        return None, None, None, None, *imported, *through
