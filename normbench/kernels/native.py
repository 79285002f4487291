"""Networks on the kernels: what they know of a network in one call forward and one backward, the rest by torch."""

import ctypes
import operator

import torch
from torch import nn

from normbench.kernels.library import library
from normbench.kernels.program import EXPORT, IMPORT, Program, Trace, Unknown
from normbench.norms.plain import Conv2d, Linear

_ANCHOR = torch.zeros((), requires_grad=True)  # a pass of which autograd is to know, though nothing goes through it


class Native:
    """A network as the kernels compute it: `native(x)` is `model(x)`, to rounding, with its parameters and buffers.

    In training mode by the statistics of the batch, with gradients; in evaluation without. What they cannot do is the
    model's: where there are hooks or layers in another mode, gradients by the images or of an evaluation. A replicate's
    numbers do not depend on how many there are, or on the threads. Raises NoKernels, or Unknown for a network of which
    they know too little.
    """

    def __init__(self, model: nn.Module, replicates: int):
        self.model, self.replicates, self.kernels = model, replicates, library()
        self.trace, self.modules, self.programs = Trace(model), list(model.modules()), {}
        kinds = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
        self.hooks = [getattr(one, kind) for one in self.modules for kind in kinds]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: N×(R·C)×H×W, of float32 or float64, on the CPU. Returns R×N×classes."""
        program = self._program(x)
        if program is None:
            return self.model(x)
        tensors = program.tensors()
        if torch.is_grad_enabled():
            through = [one for one in tensors if one.requires_grad and not _direct(one)]
            made = _Run.apply(program, x, tensors, *(through or [_ANCHOR]))
        else:
            kept = program.take()
            made = program.forward(x, tensors, kept)
            program.free.append(kept)
        return self._rest(dict(zip(self.trace.outputs, made, strict=True)))

    def _program(self, x: torch.Tensor) -> "_Sized | None":
        """The program for such a batch; None where it is the model's."""
        training = self.model.training
        if torch.is_grad_enabled() and (x.requires_grad or not training):
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

    def _rest(self, values: dict):
        """What torch does after the kernels. values: node → tensor."""
        for node in self.trace.rest:
            arguments = torch.fx.node.map_arg(node.args, values.__getitem__)
            if node.op == "output":
                return arguments[0]
            named = torch.fx.node.map_arg(node.kwargs, values.__getitem__)
            if node.op == "get_attr":
                values[node] = operator.attrgetter(node.target)(self.model)
            elif node.op == "call_module":
                values[node] = self.trace.modules[node.target](*arguments, **named)
            elif node.op == "call_method":
                values[node] = getattr(arguments[0], node.target)(*arguments[1:], **named)
            else:
                values[node] = node.target(*arguments, **named)


class _Sized(Program):
    """A program with its memory."""

    def __init__(self, native: Native, shape, dtype, training: bool):
        itemsize = dtype.itemsize
        lanes = native.kernels.vector_bytes() // itemsize
        super().__init__(native.trace, shape, native.replicates, itemsize, training, lanes)
        self.dtype = dtype
        self.call = native.kernels.run_float if itemsize == 4 else native.kernels.run_double
        self.getters = [_getter(module, name) for module, name in self.sources]
        self.free: list[torch.Tensor] = []  # maps that no backward pass waits for
        self.workers = min(torch.get_num_threads(), self.replicates)
        self.own = self._memory(self.workers * self.scratch)

    def _memory(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=self.dtype)

    def take(self) -> torch.Tensor:
        return self.free.pop() if self.free else self._memory(self.replicates * self.kept)

    def tensors(self) -> list[torch.Tensor]:
        return [get() for get in self.getters]

    def forward(self, x, tensors, kept) -> list[torch.Tensor]:
        made, ready = [], [_ready(one) for one in tensors]
        self._strides("strides", IMPORT, [x])
        for operation in self.trace.outputs.values():
            one = self.maps[operation.x]
            shape = (self.images, self.replicates * one.channels)
            if operation.linear is not None:
                made.append(
                    torch.empty((self.replicates, self.images, operation.linear.out_features), dtype=self.dtype)
                )
            elif operation.kind == EXPORT:
                made.append(torch.empty((*shape, one.height, one.width), dtype=self.dtype))
            else:
                made.append(torch.empty(shape, dtype=self.dtype))
        self._strides("strides", EXPORT, [one for one in made if one.dim() == 4])
        self._run([x, *ready, *made], [], kept, 0)
        return made

    def backward(self, x, tensors, kept, gradients) -> list[torch.Tensor | None]:
        """The gradient by each of the tensors; None for those that want none."""
        ready = [_ready(one) for one in tensors]
        gradients = [one.contiguous() for one in gradients]
        own = [
            torch.empty_like(one) if wanted.requires_grad else None for one, wanted in zip(ready, tensors, strict=True)
        ]
        self._strides("gradient_strides", EXPORT, [one for one in gradients if one.dim() == 4])
        self._run([x, *ready], [None, *own, *gradients], kept, 1)
        self.free.append(kept)
        return own

    def _strides(self, name: str, kind: int, tensors) -> None:
        tensors = iter(tensors)
        for op in self.ops:
            if op.kind == kind:
                getattr(op, name)[:] = next(tensors).stride()

    def _run(self, tensors, gradients, kept, backward: int) -> None:
        self.call(
            ctypes.addressof(self.layout),
            _pointers(tensors),
            _pointers(gradients),
            kept.data_ptr(),
            self.own.data_ptr(),
            backward,
            self.workers,
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


class _Run(torch.autograd.Function):
    """A program's two calls.

    Gradients by parameters go straight to their `.grad`, as autograd accumulates them, which would take a third of a
    small network's backward pass over it; what is computed from parameters, or has hooks, gets its own through it.
    """

    @staticmethod
    def forward(ctx, program: _Sized, x, tensors, *through):
        kept = program.take()
        made = program.forward(x, tensors, kept)
        ctx.program, ctx.x, ctx.tensors, ctx.kept = program, x, tensors, kept
        return tuple(made)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            raise RuntimeError("the kernels keep a batch's maps for one backward pass")
        through = []
        for one, own in zip(ctx.tensors, ctx.program.backward(ctx.x, ctx.tensors, kept, gradients), strict=True):
            if own is None:
                continue
            if not _direct(one):
                through.append(own)
            elif one.grad is None:
                one.grad = own
            else:
                one.grad += own
        return None, None, None, *(through or [None])
