"""A program of the kernels: the operations of a traced network for batches of one shape, and their places in memory."""

import ctypes
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from normbench.kernels.trace import (
    AVERAGE,
    BATCH,
    CONV,
    EXPORT,
    IMPORT,
    LARGEST,
    MEANS,
    MOST_LANES,
    POINT,
    PUT,
    Operation,
    Trace,
    Unknown,
)
from normbench.norms.batch import BatchNorm, GhostBatchNorm
from normbench.norms.plain import Conv2d
from normbench.norms.sample import GroupNorm

NONE, OWN, RUNNING = range(3)  # by which statistic a point normalizes
COPY, ADD, CLEAR, SHARE = range(4)  # how a gradient is handed on; CLEAR: added to zeros; SHARE: it lies there already
ALIGNED = 64  # bytes
IMAGES_A_MEMBER = 4  # of a chunk that several threads divide: fewer and they wait, more and they leave the cache


class Map(ctypes.Structure):
    """As `struct map` of kernels.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("values", "gradient", "channels", "lanes", "height", "width")]


class Op(ctypes.Structure):
    """As `struct op` of kernels.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("kind", "x", "y", "other", "needs_x", "add_x", "add_other", "size")),
        *((name, ctypes.c_int64) for name in ("stride", "pad", "norm", "span", "group", "relu")),
        ("tensor", ctypes.c_int64 * 5),
        ("strides", ctypes.c_int64 * 4),
        ("gradient_strides", ctypes.c_int64 * 4),
        *((name, ctypes.c_int64) for name in ("filters", "transposed", "filter_gradients", "bias", "bias_gradients")),
        *((name, ctypes.c_int64) for name in ("sums", "stats")),
        ("eps", ctypes.c_double),
        ("momentum", ctypes.c_double),
    ]


class Layout(ctypes.Structure):
    """As `struct program` of kernels.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("ops", "maps")),
        *((name, ctypes.c_int64) for name in ("first", "last", "replicates", "images", "chunk", "slots")),
        *(
            (name, ctypes.c_int64)
            for name in ("kept_size", "scratch_size", "sums", "sums_size", "partials", "partials_size")
        ),
    ]


class Area:
    """Memory of numbers of one size, given out once, each part at the beginning of a vector."""

    def __init__(self, itemsize: int):
        self.size, self.unit = 0, ALIGNED // itemsize

    def take(self, count: int) -> int:
        start, self.size = self.size, self.size + -(-count // self.unit) * self.unit
        return start


@dataclass(eq=False)
class Part:
    """A stage of a program.

    number: which. ops: first and last, in the program's. imports: what torch hands in, with its shape. outputs: what
    it gets. sources: module and name of each tensor that the kernels read; a module's `filters` are what its method
    gives. calls: torch's nodes after it. layout: what the kernels read; their list of tensors has imports, outputs,
    sources, in that order.
    """

    number: int
    ops: tuple[int, int]
    imports: list[Operation]
    outputs: list[Operation]
    calls: list[fx.Node]
    shapes: list[torch.Size] = field(default_factory=list)
    sources: list[tuple[nn.Module, str]] = field(default_factory=list)
    layout: Layout | None = None

    def number_of(self, module: nn.Module, name: str) -> int:
        """The number of a tensor: `module.name`, or what `module.filters()` gives."""
        self.sources.append((module, name))
        return len(self.imports) + len(self.outputs) + len(self.sources) - 1


class Program:
    """The operations of a trace for batches of one shape, and their places in memory.

    parts: its stages. kept, scratch: how many numbers they need, of a replicate and of a team; where torch comes
    between, all is kept, of the whole batch, since a thread does not go on with what it has begun. Raises Unknown.
    """

    def __init__(self, trace: Trace, shape, replicates: int, dtype, training: bool, lanes: int, members: int):
        """shape: of the input, N×(R·C)×H×W. training: by own statistics, with gradients. lanes: numbers of a vector.

        members: threads a replicate.
        """
        self.images, channels, height, width = shape
        if not self.images:
            raise Unknown("an empty batch")
        self.trace, self.replicates, self.training, self.lanes, self.dtype = trace, replicates, training, lanes, dtype
        self.doubles = 8 // dtype.itemsize
        spans = [_span(one.norm, self.images) for one in trace.operations if training and one.norm is not None]
        whole = len(trace.stages) > 1
        span = max(spans, default=1)
        some = span if members == 1 else -(-IMAGES_A_MEMBER * members // span) * span
        self.chunk = self.images if whole else min(some, self.images)
        self.slots = self.images if training else self.chunk
        kept = Area(dtype.itemsize)
        scratch = kept if whole else Area(dtype.itemsize)
        channels //= replicates
        self.maps = (Map * trace.maps)()
        self.maps[0] = Map(channels=channels, lanes=channels, height=height, width=width)
        self.ops = (Op * len(trace.operations))()
        self.outside = {
            node: trace.attribute(node).to("meta") for node in trace.attributes
        }  # what torch has: its sizes
        self.outside[trace.images] = torch.empty(shape, dtype=dtype, device="meta")
        sums = self._describe_stages(kept, scratch)
        for one in self.maps:
            one.values = kept.take(self.slots * _image(one))
        if training:
            self._place_gradients(scratch)
        size = self.chunk * max(one.lanes for one in self.maps) * self.doubles  # of the sums of each image
        partials = scratch.take(2 * size)
        self.kept, self.scratch = kept.size, 0 if whole else scratch.size
        for part, place in zip(self.parts, sums, strict=True):
            part.layout = Layout(
                ctypes.addressof(self.ops),
                ctypes.addressof(self.maps),
                *(*part.ops, replicates, self.images, self.chunk, self.slots),
                *(self.kept, self.scratch, *place, partials, size),
            )

    def _describe_stages(self, kept: Area, scratch: Area) -> list[tuple[int, int]]:
        """The operations without the places of maps; and where in scratch each part has its sums, and how many."""
        self.parts, found, first = [], [], 0
        outputs = set(self.trace.outputs.values())
        for stage in self.trace.stages:
            last, sums = first + len(stage.operations), Area(self.dtype.itemsize)
            part = Part(
                len(self.parts),
                (first, last),
                [one for one in stage.operations if one.kind == IMPORT],
                [one for one in stage.operations if one in outputs],
                stage.calls,
            )
            self.parts.append(part)
            for op, operation in zip(self.ops[first:last], stage.operations, strict=True):
                self._describe(op, operation, part, kept, scratch, sums)
            found.append((scratch.take(sums.size), sums.size))
            for op in self.ops[first:last]:
                op.filter_gradients += found[-1][0]
                op.bias_gradients += found[-1][0]
                op.sums += found[-1][0]
            self._call(stage, part)
            first = last
        return found

    def _call(self, stage, part: Part) -> None:
        """The sizes of what torch makes before the next stage, which may read it."""
        if stage is self.trace.stages[-1]:
            return
        for node, one in self.trace.outputs.items():
            if one in part.outputs:
                self.outside[node] = torch.empty(self.size_of(one), dtype=self.dtype, device="meta")
        for node in stage.calls:
            try:
                with torch.no_grad():
                    self.outside[node] = self.trace.execute(node, self.outside, _without_numbers)
            except Exception as error:  # what a user's layer may say to tensors without numbers
                raise Unknown(f"{node} has sizes that only it knows: {type(error).__name__}") from None

    def size_of(self, one: Operation) -> tuple[int, ...]:
        """Of an output."""
        m = self.maps[one.x]
        if one.linear is not None:
            return self.replicates, self.images, one.linear.out_features
        each = (m.height, m.width) if one.kind == EXPORT else ()
        return self.images, self.replicates * m.channels, *each

    def _describe(self, op: Op, one: Operation, part: Part, kept: Area, scratch: Area, sums: Area) -> None:
        """An operation without the places of maps; and the size of the map that it makes."""
        op.kind, op.x, op.y, op.other, op.stride, op.relu = one.kind, one.x, one.y, one.other, one.stride, one.relu
        op.tensor[:] = [-1] * 5
        op.needs_x = one.x > 0
        if one.kind == IMPORT:
            self._import(op, one, part)
        x = self.maps[one.x]
        if one.kind in (EXPORT, AVERAGE):
            if one not in part.outputs:
                raise Unknown("an average that nothing reads")
            op.tensor[0] = len(part.imports) + part.outputs.index(one)
        if one.linear is not None:
            op.size, op.stats = one.linear.out_features, kept.take(self.slots * x.lanes)
            op.tensor[1], op.tensor[2] = (part.number_of(one.linear, name) for name in ("filters", "bias"))
        if one.kind in (LARGEST, MEANS, PUT):
            self._pool(op, one, x)
        if one.kind == CONV:
            self._convolution(op, one.conv, x, part, scratch, sums)
        if one.kind == POINT:
            if one.y != one.x:
                self.maps[one.y] = Map(channels=x.channels, lanes=x.lanes, height=x.height, width=x.width)
            self._point(op, one, x, part, kept, sums)

    def _import(self, op: Op, one: Operation, part: Part) -> None:
        """A map of what torch has."""
        tensor = self.outside[one.node]
        if not torch.is_tensor(tensor) or tensor.dim() != 4 or tensor.dtype != self.dtype:
            raise Unknown(f"{one.node} is no map")
        images, channels, height, width = tensor.shape
        if images != self.images or channels % self.replicates:
            raise Unknown(f"{one.node} has no replicates side by side")
        op.tensor[0] = len(part.shapes)
        part.shapes.append(tensor.shape)
        if one.x > 0:
            channels //= self.replicates
            lanes = self._lanes(channels)
            self.maps[one.x] = Map(channels=channels, lanes=lanes, height=height, width=width)

    def _lanes(self, channels: int) -> int:
        lanes = -(-channels // self.lanes) * self.lanes
        if lanes > MOST_LANES:
            raise Unknown(f"{channels} channels")
        return lanes

    def _pool(self, op: Op, one: Operation, x: Map) -> None:
        height, width, channels = x.height, x.width, x.channels
        if one.kind == LARGEST:
            op.size, op.stride, op.pad = one.pool.kernel_size, one.pool.stride, one.pool.padding
            height, width = ((side + 2 * op.pad - op.size) // op.stride + 1 for side in (height, width))
        if one.kind == PUT:
            each = [self.maps[part].channels for part in one.parts]
            channels, op.pad = sum(each), sum(each[: one.part])
        if min(height, width) < 1:
            raise Unknown("a map without places")
        self.maps[one.y] = Map(channels=channels, lanes=self._lanes(channels), height=height, width=width)

    def _convolution(self, op: Op, conv: Conv2d, x: Map, part: Part, scratch: Area, sums: Area) -> None:
        if conv.groups != self.replicates or conv.in_channels != self.replicates * x.channels:
            raise Unknown("groups of a convolution")
        channels, [op.size, _], [op.stride, _] = conv.out_channels // self.replicates, conv.kernel_size, conv.stride
        lanes = self._lanes(channels)
        self.maps[op.y] = Map(
            channels=channels, lanes=lanes, height=-(-x.height // op.stride), width=-(-x.width // op.stride)
        )
        filters = op.size * op.size * x.lanes * lanes
        # Places of their own: what lies beyond the channels stays zero in each order.
        op.filters, op.transposed = scratch.take(filters), scratch.take(filters)
        depth = -(-op.size * x.lanes // self.lanes) * self.lanes
        op.filter_gradients, op.tensor[0] = sums.take(lanes * op.size * depth), part.number_of(conv, "filters")
        if conv.bias is not None:
            op.bias, op.bias_gradients = scratch.take(lanes), sums.take(lanes)
            op.tensor[1] = part.number_of(conv, "bias")

    def _point(self, op: Op, one: Operation, x: Map, part: Part, kept: Area, sums: Area) -> None:
        norm = one.norm
        op.sums = sums.take((2 * x.lanes + 1) * self.doubles)
        if one.factor is not None:
            op.tensor[4] = part.number_of(one.factor, "scale")
        if one.other >= 0:
            other = self.maps[one.other]
            if (-(-other.height // one.stride), -(-other.width // one.stride)) != (x.height, x.width):
                raise Unknown("a sum of different sizes")
        if norm is None:
            return
        names = ["weight", "bias"] + ["running_mean", "running_var"] * isinstance(norm, BATCH)
        for place, name in enumerate(names):
            if getattr(norm, name) is not None:
                op.tensor[place] = part.number_of(norm, name)
        op.eps, op.group = norm.eps, _group(norm, x.channels)
        if isinstance(norm, BATCH):
            op.norm, op.momentum = OWN if self.training else RUNNING, norm.momentum
        else:
            op.norm = OWN
        if op.norm == OWN:
            op.span = _span(norm, self.images)
            if min(op.span, self.images % op.span or op.span) * x.height * x.width * op.group < 2:
                raise Unknown("a statistic of a single value")
            op.stats = kept.take(-(-self.slots // op.span) * 2 * x.lanes)

    def _place_gradients(self, scratch: Area) -> None:
        """From the last operation to the first: where the gradient by each map lies for as long as it is needed."""
        free: dict[tuple, list[int]] = {}
        there, lent = set(), set()  # maps that have a gradient so far; whose place another map has taken over

        def size(number: int) -> tuple:
            one = self.maps[number]
            return one.lanes, one.height, one.width

        def place(number: int) -> None:
            some = free.setdefault(size(number), [])
            self.maps[number].gradient = some.pop() if some else scratch.take(self.chunk * _image(self.maps[number]))
            there.add(number)

        def hand(number: int, whole: bool = True) -> int:
            if number in there:
                return ADD
            place(number)
            return COPY if whole else CLEAR

        for number in reversed(range(len(self.ops))):
            op = self.ops[number]
            made = -1 if op.kind in (EXPORT, AVERAGE) else (op.x or -1) if op.kind == IMPORT else op.y
            if made >= 0 and made not in there:
                raise Unknown("a map that nothing reads")
            if op.kind == POINT and op.other > 0:
                # The gradient by y is the shortcut's too. It may stay where it is if nobody needs it for anything else.
                before = self.ops[number - 1]
                soon = op.x != op.y or op.y == (before.x if before.kind == IMPORT else before.y)
                same = size(op.other) == size(op.y) and op.stride == 1 and op.other not in (op.x, *there)
                if soon and same:
                    op.add_other, self.maps[op.other].gradient = SHARE, self.maps[op.y].gradient
                    there.add(op.other)
                    lent.add(op.y)
                else:
                    op.add_other = hand(op.other, op.stride == 1)
            if op.kind != IMPORT and (made < 0 or op.x not in (0, op.y)):
                op.add_x = hand(op.x, op.kind != LARGEST)
            if made >= 0 and (made != op.x or op.kind == IMPORT) and self.trace.operations[number].part == 0:
                there.discard(made)
                if made not in lent:
                    free.setdefault(size(made), []).append(self.maps[made].gradient)


def _image(one: Map) -> int:
    """Numbers that a map has of an image."""
    return (one.height + 2) * (one.width + 2) * one.lanes


def _span(norm: nn.Module, images: int) -> int:
    """How many images share a statistic in training."""
    if type(norm) is GhostBatchNorm:
        return min(norm.ghost_size, images)
    return images if type(norm) is BatchNorm else 1


def _group(norm: nn.Module, channels: int) -> int:
    """How many channels share a statistic."""
    return channels // norm.num_groups if isinstance(norm, GroupNorm) else 1


def _without_numbers(module: nn.Module):
    """What a layer does in evaluation to tensors that have sizes alone: it draws nothing, and no average moves."""

    def call(*arguments, **named):
        tensors = {name: one.to("meta") for name, one in (*module.named_parameters(), *module.named_buffers())}
        training = module.training
        module.training = False
        try:
            return torch.func.functional_call(module, tensors, arguments, named)
        finally:
            module.training = training

    return call
