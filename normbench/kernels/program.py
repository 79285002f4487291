"""From a network to a program for the kernels: which operations, on which maps, where in memory.

A network is traced once. What of it the kernels know, from the images on, becomes operations: convolutions, and points,
which are a normalization, a factor, a shortcut and an activation in one. The rest of the trace is left to torch. With
the size of a batch the operations get their places in memory: a program.
"""

import ctypes
import operator
from dataclasses import dataclass

import torch
from torch import fx, nn

from normbench.norms.batch import BatchNorm, GhostBatchNorm
from normbench.norms.plain import Concatenate, Conv2d, Dropout, Linear, PadShortcut, ResidualScalar
from normbench.norms.sample import GroupNorm, InstanceNorm, LayerNorm

IMPORT, EXPORT, CONV, POINT, AVERAGE, LARGEST, MEANS, PUT = range(8)  # kinds of operations, as in kernels.c
NONE, OWN, RUNNING = range(3)  # by which statistic a point normalizes
COPY, ADD, CLEAR, SHARE = range(4)  # how a gradient is handed on; CLEAR: added to zeros; SHARE: it lies there already
ALIGNED = 64  # bytes
MOST_LANES = 1024
BATCH = (BatchNorm, GhostBatchNorm)
SAMPLE = (GroupNorm, LayerNorm, InstanceNorm)


class Unknown(Exception):
    """Something that the kernels do not do."""


@dataclass(eq=False)
class Operation:
    """An operation on maps, which are numbers, before any size is known: from x, and a shortcut `other`, to y."""

    kind: int
    x: int
    y: int = -1
    other: int = -1
    conv: Conv2d | None = None
    norm: nn.Module | None = None
    factor: ResidualScalar | None = None
    pool: nn.MaxPool2d | None = None
    linear: Linear | None = None
    stride: int = 1
    relu: bool = False
    parts: tuple[int, ...] = ()  # of a concatenation, of which this one puts the `part`th in its place
    part: int = 0


@dataclass(frozen=True)
class Padded:
    """A map at every stride-th position, with further channels of zeros: for a sum alone."""

    map: int
    stride: int


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return not isinstance(module, nn.Sequential) and not any(True for _ in module.children())


class Trace:
    """A network's operations, and the nodes after them that are torch's.

    operations: in order. maps: how many. outputs: node → the operation that makes its tensor, of what torch goes on
    from. rest: nodes. Raises Unknown where a convolution would be left to torch, and for a network without a trace.
    """

    def __init__(self, model: nn.Module):
        try:
            self.graph = _Tracer().trace(model)
        except Exception as error:  # its forward decides by numbers, or does to them what only a tensor can
            raise Unknown(f"torch.fx cannot trace the network: {type(error).__name__}") from None
        self.modules = dict(model.named_modules())
        self.operations, self.maps, self.outputs = [Operation(IMPORT, 0)], 1, {}
        values: dict[fx.Node, object] = {}
        nodes = iter(self.graph.nodes)
        values[next(nodes)] = 0
        self.shared: set[int] = set()  # maps that several nodes read, an identity's readers counted as theirs
        self.rest = []
        for node in nodes:
            if not self.rest:
                try:
                    values[node] = self._value(node, values)
                    if len(node.users) > 1:
                        self.shared.add(values[node])
                    continue
                except Unknown:
                    pass
            self.rest.append(node)
        if any(isinstance(self.modules.get(node.target), nn.Conv2d) for node in self.rest if node.op == "call_module"):
            raise Unknown("a convolution after what only torch does")
        for node in dict.fromkeys(source for one in self.rest for source in one.all_input_nodes if source in values):
            self._output(node, values[node])

    def _output(self, node, value) -> None:
        if isinstance(value, Operation):
            self.outputs[node] = value
        elif isinstance(value, Padded):
            raise Unknown("a padded shortcut that is not added")
        else:
            self.outputs[node] = Operation(EXPORT, value)
            self.operations.append(self.outputs[node])

    def _value(self, node, values):
        """What a node makes: a map, a Padded, or the operation that averages. Raises Unknown."""
        if node.op == "call_module":
            if len(node.args) != 1 or node.kwargs:
                raise Unknown(node)
            module, [source] = self.modules[node.target], node.args
            if type(module) is Concatenate:
                return self._concatenation([values[one] for one in source])
            x = values[source] if isinstance(source, fx.Node) else None
            if isinstance(module, nn.Identity) or (isinstance(module, Dropout) and module.p == 0):
                return x
            if isinstance(module, Linear) and type(module).forward is Linear.forward and isinstance(x, Operation):
                return self._classifier(x, module, source)
            if not isinstance(x, int):
                raise Unknown(node)
            return self._module(module, x)
        if node.op == "call_function" and node.target in (operator.add, torch.add) and not node.kwargs:
            return self._sum(*(values[one] if isinstance(one, fx.Node) else None for one in node.args))
        if node.op == "call_method" and node.target == "mean" and node.args[1:] == ((2, 3),) and not node.kwargs:
            x = values[node.args[0]]
            if isinstance(x, int):
                return self._add(Operation(AVERAGE, x))
        raise Unknown(node)

    def _module(self, module, x: int):
        kind = type(module)
        if isinstance(module, Conv2d) and kind.forward is Conv2d.forward and _fits(module):
            return self._add(Operation(CONV, x, self._map(), conv=module)).y
        if kind in BATCH or kind in SAMPLE:
            return self._add(Operation(POINT, x, self._map(), norm=module)).y
        if kind is nn.MaxPool2d and _is_plain(module) and module.dilation == 1 and not module.return_indices:
            return self._add(Operation(LARGEST, x, self._map(), pool=module)).y
        if kind is nn.AvgPool2d and _is_plain(module) and _is_mean_of_nine(module):
            return self._add(Operation(MEANS, x, self._map())).y
        if kind is PadShortcut:
            return Padded(x, module.stride)
        if kind is ResidualScalar:
            point = self._open(x) or self._add(Operation(POINT, x, self._map()))
            point.factor = module
            return self._apart(point)
        if kind is nn.ReLU:
            point = self._open(x, factor=True, other=True) or self._add(Operation(POINT, x, self._map()))
            point.relu = True
            return point.y
        raise Unknown(module)

    def _classifier(self, average: Operation, module: Linear, source):
        if len(source.users) > 1 or average.linear is not None or module.out_features > MOST_LANES:
            raise Unknown(module)
        average.linear = module
        return average

    def _concatenation(self, parts: list) -> int:
        if not all(isinstance(one, int) for one in parts):
            raise Unknown("a concatenation")
        y = self._map()
        for part, x in enumerate(parts):
            self._add(Operation(PUT, x, y, parts=tuple(parts), part=part))
        return y

    def _sum(self, *terms):
        orders = [
            (x, other) for x, other in (terms, terms[::-1]) if isinstance(x, int) and isinstance(other, int | Padded)
        ]
        if not orders:
            raise Unknown("a sum")
        for x, other in orders:
            if x != other and (point := self._open(x, factor=True)):
                break
        else:
            x, other = orders[0]
            point = self._add(Operation(POINT, x, self._map()))
        point.other, point.stride = (other.map, other.stride) if isinstance(other, Padded) else (other, 1)
        self.operations.remove(point)  # nobody reads it before its sum: it may wait for what is added
        self.operations.append(point)
        return point.y

    def _open(self, x: int, factor=False, other=False) -> Operation | None:
        """The point that makes x, if it may do more; after a convolution a new one. factor, other: it may have."""
        maker = next((one for one in reversed(self.operations) if one.y == x), None)
        if x in self.shared or maker is None:
            return None
        if maker.kind == CONV:
            return self._add(Operation(POINT, x, x))
        closed = maker.relu or (maker.other >= 0 and not other) or (maker.factor is not None and not factor)
        return None if maker.kind != POINT or closed else maker

    def _apart(self, point: Operation) -> int:
        """A point with a factor reads another map than it writes: its gradient needs what it read."""
        if point.x == point.y:
            point.y = self._map()
        return point.y

    def _map(self) -> int:
        self.maps += 1
        return self.maps - 1

    def _add(self, operation: Operation) -> Operation:
        self.operations.append(operation)
        return operation


def _fits(conv: Conv2d) -> bool:
    size = conv.kernel_size[0]
    same = conv.kernel_size == (size, size) and conv.padding == (size // 2, size // 2) and conv.dilation == (1, 1)
    return same and size in (1, 3) and conv.stride in ((1, 1), (2, 2)) and conv.padding_mode == "zeros"


def _is_plain(pool: nn.Module) -> bool:
    return not pool.ceil_mode and all(isinstance(n, int) for n in (pool.kernel_size, pool.stride, pool.padding))


def _is_mean_of_nine(pool: nn.AvgPool2d) -> bool:
    whole = pool.count_include_pad and pool.divisor_override is None
    return whole and (pool.kernel_size, pool.stride, pool.padding) == (3, 1, 1)


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
        *((name, ctypes.c_int64) for name in ("count", "replicates", "images", "chunk", "slots")),
        *((name, ctypes.c_int64) for name in ("kept_size", "scratch_size", "sums", "sums_size")),
    ]


class Area:
    """Memory of numbers of one size, given out once, each part at the beginning of a vector."""

    def __init__(self, itemsize: int):
        self.size, self.unit = 0, ALIGNED // itemsize

    def take(self, count: int) -> int:
        start, self.size = self.size, self.size + -(-count // self.unit) * self.unit
        return start


class Program:
    """The operations of a trace for batches of one shape, and their places in memory.

    layout: what the kernels read. sources: module and name of each tensor that they read, after the input, which is
    number 0, and before the outputs; a module's `filters` are what its method gives. kept, scratch: how many numbers
    they need, of a replicate and of a thread. Raises Unknown.
    """

    def __init__(self, trace: Trace, shape, replicates: int, itemsize: int, training: bool, lanes: int):
        """shape: of the input, N×(R·C)×H×W. training: by own statistics, with gradients. lanes: numbers of a vector."""
        self.images, channels, height, width = shape
        if not self.images:
            raise Unknown("an empty batch")
        self.trace, self.replicates, self.training, self.lanes = trace, replicates, training, lanes
        self.sources, self.numbers, self.doubles = [], {}, 8 // itemsize
        spans = [_span(one.norm, self.images) for one in trace.operations if training and one.norm is not None]
        self.chunk = max(spans, default=1)
        self.slots = self.images if training else self.chunk
        kept, scratch, sums = Area(itemsize), Area(itemsize), Area(itemsize)
        channels //= replicates
        self.maps = (Map * trace.maps)()
        self.maps[0] = Map(channels=channels, lanes=channels, height=height, width=width)
        self.ops = (Op * len(trace.operations))()
        for op, operation in zip(self.ops, trace.operations, strict=True):
            self._describe(op, operation, kept, scratch, sums)
        for one in self.maps:
            one.values = kept.take(self.slots * _image(one))
        if training:
            self._place_gradients(scratch)
        start = scratch.size  # the sums lie after all else of a thread
        for op in self.ops:
            op.filter_gradients, op.bias_gradients, op.sums = (
                start + place for place in (op.filter_gradients, op.bias_gradients, op.sums)
            )
        self.kept, self.scratch = kept.size, start + sums.size
        for number, operation in enumerate(trace.outputs.values(), 1 + len(self.sources)):
            self.ops[trace.operations.index(operation)].tensor[0] = number
        self.layout = Layout(
            ctypes.addressof(self.ops),
            ctypes.addressof(self.maps),
            *(len(self.ops), replicates, self.images, self.chunk, self.slots),
            *(self.kept, self.scratch, start, sums.size),
        )

    def _describe(self, op: Op, one: Operation, kept: Area, scratch: Area, sums: Area) -> None:
        """An operation without the places of maps; and the size of the map that it makes."""
        x = self.maps[one.x]
        op.kind, op.x, op.y, op.other, op.stride, op.relu = one.kind, one.x, one.y, one.other, one.stride, one.relu
        op.tensor[:] = [-1] * 5
        op.needs_x = one.x > 0
        if one.kind == IMPORT:
            op.tensor[0] = 0
        if one.linear is not None:
            op.size, op.stats = one.linear.out_features, kept.take(self.slots * x.lanes)
            op.tensor[1], op.tensor[2] = self._number(one.linear, "filters"), self._number(one.linear, "bias")
        if one.kind in (LARGEST, MEANS, PUT):
            self._pool(op, one, x)
        if one.kind == CONV:
            self._convolution(op, one.conv, x, scratch, sums)
        if one.kind == POINT:
            if one.y != one.x:
                self.maps[one.y] = Map(channels=x.channels, lanes=x.lanes, height=x.height, width=x.width)
            self._point(op, one, x, kept, sums)

    def _pool(self, op: Op, one: Operation, x: Map) -> None:
        if one.x == 0:
            raise Unknown("a pooling of images")
        height, width, channels = x.height, x.width, x.channels
        if one.kind == LARGEST:
            op.size, op.stride, op.pad = one.pool.kernel_size, one.pool.stride, one.pool.padding
            height, width = ((side + 2 * op.pad - op.size) // op.stride + 1 for side in (height, width))
        if one.kind == PUT:
            each = [self.maps[part].channels for part in one.parts]
            channels, op.pad = sum(each), sum(each[: one.part])
        if min(height, width) < 1 or channels > MOST_LANES:
            raise Unknown("a map without places, or with too many channels")
        lanes = -(-channels // self.lanes) * self.lanes
        self.maps[one.y] = Map(channels=channels, lanes=lanes, height=height, width=width)

    def _convolution(self, op: Op, conv: Conv2d, x: Map, scratch: Area, sums: Area) -> None:
        if conv.groups != self.replicates or conv.in_channels != self.replicates * x.channels:
            raise Unknown("groups of a convolution")
        channels, [op.size, _], [op.stride, _] = conv.out_channels // self.replicates, conv.kernel_size, conv.stride
        lanes = -(-channels // self.lanes) * self.lanes
        if lanes > MOST_LANES or x.lanes > MOST_LANES:
            raise Unknown(f"{channels} channels")
        self.maps[op.y] = Map(
            channels=channels, lanes=lanes, height=-(-x.height // op.stride), width=-(-x.width // op.stride)
        )
        filters = op.size * op.size * x.lanes * lanes
        # Places of their own: what lies beyond the channels stays zero in each order.
        op.filters, op.transposed = scratch.take(filters), scratch.take(filters)
        depth = -(-op.size * x.lanes // self.lanes) * self.lanes
        op.filter_gradients, op.tensor[0] = sums.take(lanes * op.size * depth), self._number(conv, "filters")
        if conv.bias is not None:
            op.bias, op.bias_gradients, op.tensor[1] = scratch.take(lanes), sums.take(lanes), self._number(conv, "bias")

    def _point(self, op: Op, one: Operation, x: Map, kept: Area, sums: Area) -> None:
        norm = one.norm
        if 0 in (one.x, one.other):
            raise Unknown("a normalization of images")
        op.sums = sums.take((2 * x.lanes + 1) * self.doubles)
        if one.factor is not None:
            op.tensor[4] = self._number(one.factor, "scale")
        if one.other >= 0:
            other = self.maps[one.other]
            if (-(-other.height // one.stride), -(-other.width // one.stride)) != (x.height, x.width):
                raise Unknown("a sum of different sizes")
        if norm is None:
            return
        names = ["weight", "bias"] + ["running_mean", "running_var"] * isinstance(norm, BATCH)
        for place, name in enumerate(names):
            if getattr(norm, name) is not None:
                op.tensor[place] = self._number(norm, name)
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

    def _number(self, module: nn.Module, name: str) -> int:
        """The number of a tensor: `module.name`, or what `module.filters()` gives."""
        key = id(module), name
        if key not in self.numbers:
            self.sources.append((module, name))
            self.numbers[key] = len(self.sources)
        return self.numbers[key]

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
            made = -1 if op.kind in (IMPORT, EXPORT, AVERAGE) else op.y
            if made >= 0 and made not in there:
                raise Unknown("a map that nothing reads")
            if op.kind == POINT and op.other > 0:
                # The gradient by y is the shortcut's too. It may stay where it is if nobody needs it for anything else.
                soon = op.x != op.y or (self.ops[number - 1].kind, self.ops[number - 1].y) == (CONV, op.y)
                same = size(op.other) == size(op.y) and op.stride == 1 and op.other not in (op.x, *there)
                if soon and same:
                    op.add_other, self.maps[op.other].gradient = SHARE, self.maps[op.y].gradient
                    there.add(op.other)
                    lent.add(op.y)
                else:
                    op.add_other = hand(op.other, op.stride == 1)
            if op.kind in (EXPORT, AVERAGE) or (made >= 0 and op.x not in (0, op.y)):
                op.add_x = hand(op.x, op.kind != LARGEST)
            if made >= 0 and made != op.x and self.trace.operations[number].part == 0:
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
