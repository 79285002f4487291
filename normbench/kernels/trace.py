"""From a network to what the kernels do of it: which operations, on which maps, and where torch comes between.

A network is traced once. What of it the kernels know becomes operations: convolutions, and points, which are a
normalization, a factor, a shortcut and an activation in one. What they do not know is torch's, between two of them: it
gets what it reads as tensors, and what it makes becomes a map again where a later operation reads it. So operations
come in stages, with torch's nodes between; maps go on from stage to stage, a shortcut past a layer of torch's.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx, nn

from normbench.norms.batch import BatchNorm, GhostBatchNorm
from normbench.norms.plain import Concatenate, Conv2d, Dropout, Linear, PadShortcut, ResidualScalar
from normbench.norms.sample import GroupNorm, InstanceNorm, LayerNorm

IMPORT, EXPORT, CONV, POINT, AVERAGE, LARGEST, MEANS, PUT = range(8)  # kinds of operations, as in kernels.c
CALL = 8  # one that is torch's
MOST_LANES = 1024
BATCH = (BatchNorm, GhostBatchNorm)
SAMPLE = (GroupNorm, LayerNorm, InstanceNorm)


class Unknown(Exception):
    """Something that the kernels do not do."""


@dataclass(eq=False)
class Operation:
    """An operation on maps, which are numbers, before any size is known: from x, and a shortcut `other`, to y."""

    kind: int
    x: int = -1
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
    node: fx.Node | None = None  # of torch's, which is called, or makes what is imported


@dataclass(frozen=True)
class Padded:
    """A map at every stride-th position, with further channels of zeros: for a sum alone."""

    map: int
    stride: int


@dataclass
class Stage:
    """Operations, and the nodes of torch's after them."""

    operations: list[Operation]
    calls: list[fx.Node]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return not isinstance(module, nn.Sequential) and not any(True for _ in module.children())


class Trace:
    """A network's operations, and the nodes that are torch's.

    stages: in order; the last call is the output. operations: of all of them. maps: how many. images: the node of the
    input, attributes: those of the model's own tensors. outputs: node → the operation that makes its tensor, of what
    torch goes on from. Raises Unknown for a network without a trace, or without a convolution that the kernels know.
    """

    def __init__(self, model: nn.Module):
        try:
            self.graph = _Tracer().trace(model)
        except Exception as error:  # its forward decides by numbers, or does to them what only a tensor can
            raise Unknown(f"torch.fx cannot trace the network: {type(error).__name__}") from None
        self.model, self.modules = model, dict(model.named_modules())
        self.operations, self.maps, self.outputs = [Operation(IMPORT, 0)], 1, {}
        self.images, *nodes = self.graph.nodes
        self.operations[0].node = self.images
        self.attributes = [node for node in nodes if node.op == "get_attr"]
        self.values: dict[fx.Node, object] = {self.images: 0}
        self.shared: set[object] = set()  # maps that several nodes read, an identity's readers counted as theirs
        self.tensors = {self.images, *self.attributes}  # what torch has
        self.foreign: set[fx.Node] = set()  # maps that it makes
        self.once: set[nn.Module] = set()  # layers with an operation: of a second one the gradients would be lost
        self.leading = self._leading(nodes)
        for node in nodes:
            if node.op != "get_attr":
                self._take(node)
        self.stages = _stages(self.operations)
        self.operations = [one for stage in self.stages for one in stage.operations]
        if not any(one.kind == CONV for one in self.operations):
            raise Unknown("no convolution that they know")

    def execute(self, node: fx.Node, values: dict, layer: Callable = lambda module: module):
        """What a node of torch's makes of the values of others. layer: what is called in place of a module."""
        arguments = fx.node.map_arg(node.args, values.__getitem__)
        named = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "output":
            return arguments[0]
        if node.op == "call_module":
            return layer(self.modules[node.target])(*arguments, **named)
        if node.op == "call_method":
            return getattr(arguments[0], node.target)(*arguments[1:], **named)
        return node.target(*arguments, **named)

    def attribute(self, node: fx.Node) -> torch.Tensor:
        return operator.attrgetter(node.target)(self.model)

    def _leading(self, nodes) -> set[fx.Node]:
        """The nodes from which a convolution or an average over positions comes later: what only maps have."""
        found = set()
        for node in (self.images, *nodes)[::-1]:
            if any(user in found or self._reads_maps(user) for user in node.users):
                found.add(node)
        return found

    def _reads_maps(self, node) -> bool:
        return _averages(node) or (node.op == "call_module" and isinstance(self.modules.get(node.target), nn.Conv2d))

    def _take(self, node) -> None:
        """A node as an operation, or as torch's."""
        try:
            value = self.values[node] = self._value(node)
        except Unknown:
            self._call(node)
            return
        if len(node.users) > 1:
            self.shared.add(value)

    def _call(self, node) -> None:
        """A node of torch's: what it reads is handed out."""
        if node.op == "placeholder":
            raise Unknown("a second input")
        sources = [one for one in node.all_input_nodes if one not in self.attributes]
        for one in sources:
            self._hand_out(one)
        if node in self.leading and sources and all(self._is_map(one) for one in sources):
            self.foreign.add(node)
        self.tensors.add(node)
        self.operations.append(Operation(CALL, node=node))

    def _hand_out(self, node) -> None:
        if node in self.tensors or node in self.outputs:
            return
        value = self.values[node]
        if isinstance(value, Padded):
            self._call(node)
        elif isinstance(value, Operation):
            self.outputs[node] = value
        else:
            self.outputs[node] = self._add(Operation(EXPORT, value))

    def _is_map(self, node) -> bool:
        return node in self.foreign or isinstance(self.values.get(node), int | Padded)

    def _read(self, node, images: bool = False) -> int:
        """The map of what a node makes, imported if that is torch's. images: it may be theirs. Raises Unknown."""
        if node in self.foreign and node not in self.values:
            self.values[node] = self._add(Operation(IMPORT, self._map(), node=node)).x
            if len(node.users) > 1:
                self.shared.add(self.values[node])
        value = self.values.get(node)
        if not isinstance(value, int) or (value == 0 and not images):
            raise Unknown(node)
        return value

    def _value(self, node):
        """What a node makes: a map, a Padded, or the operation that averages. Raises Unknown."""
        if node.op == "call_module":
            if len(node.args) != 1 or node.kwargs:
                raise Unknown(node)
            module, [source] = self.modules[node.target], node.args
            if type(module) is Concatenate:
                return self._concatenation(source)
            if isinstance(module, nn.Identity) or (isinstance(module, Dropout) and module.p == 0):
                return self._same(source)
            if isinstance(module, Linear) and type(module).forward is Linear.forward:
                return self._classifier(self.values.get(source), module)
            return self._module(module, source)
        if node.op == "call_function" and node.target in (operator.add, torch.add) and not node.kwargs:
            return self._sum(*node.args)
        if _averages(node):
            return self._add(Operation(AVERAGE, self._read(node.args[0])))
        raise Unknown(node)

    def _same(self, source):
        if source not in self.values:
            raise Unknown(source)
        return self.values[source]

    def _module(self, module, source):
        kind = type(module)
        if module in self.once:
            raise Unknown(module)
        if isinstance(module, Conv2d) and kind.forward is Conv2d.forward and _fits(module):
            x = self._read(source, images=True)
            self.once.add(module)
            return self._add(Operation(CONV, x, self._map(), conv=module)).y
        if kind in BATCH or kind in SAMPLE:
            x = self._read(source)
            self.once.add(module)
            return self._add(Operation(POINT, x, self._map(), norm=module)).y
        if kind is nn.MaxPool2d and _is_plain(module) and module.dilation == 1 and not module.return_indices:
            return self._add(Operation(LARGEST, self._read(source), self._map(), pool=module)).y
        if kind is nn.AvgPool2d and _is_plain(module) and _is_mean_of_nine(module):
            return self._add(Operation(MEANS, self._read(source), self._map())).y
        if kind is PadShortcut:
            return Padded(self._read(source), module.stride)
        if kind is ResidualScalar:
            x = self._read(source)
            self.once.add(module)
            point = self._open(x) or self._add(Operation(POINT, x, self._map()))
            point.factor = module
            return self._apart(point)
        if kind is nn.ReLU:
            x = self._read(source)
            point = self._open(x, factor=True, other=True) or self._add(Operation(POINT, x, self._map()))
            point.relu = True
            return point.y
        raise Unknown(module)

    def _classifier(self, average, module: Linear):
        if not isinstance(average, Operation) or average in self.shared or average.linear is not None:
            raise Unknown(module)
        if module in self.once or module.out_features > MOST_LANES:
            raise Unknown(module)
        self.once.add(module)
        average.linear = module
        return average

    def _maps_of(self, nodes) -> list:
        """Maps and Padded ones of these nodes, for an operation on several. Raises Unknown, and if all are torch's."""
        if not all(isinstance(one, fx.Node) and self._is_map(one) for one in nodes):
            raise Unknown(nodes)
        if not any(one in self.values for one in nodes):
            raise Unknown(nodes)
        given = (self.values.get(one) for one in nodes)
        return [one if isinstance(one, Padded) else self._read(node) for one, node in zip(given, nodes, strict=True)]

    def _concatenation(self, nodes) -> int:
        if any(isinstance(self.values.get(one), Padded) for one in nodes):
            raise Unknown("a concatenation")
        parts, y = self._maps_of(nodes), self._map()
        for part, x in enumerate(parts):
            self._add(Operation(PUT, x, y, parts=tuple(parts), part=part))
        return y

    def _sum(self, *nodes):
        if len(nodes) != 2 or all(
            isinstance(self.values.get(one), Padded) for one in nodes if isinstance(one, fx.Node)
        ):
            raise Unknown("a sum")
        terms = self._maps_of(nodes)
        orders = [(x, other) for x, other in (terms, terms[::-1]) if isinstance(x, int)]
        if not orders:
            raise Unknown("a sum of shortcuts alone")
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
        """The point that makes x, if it may do more; of what is new a new one. factor, other: it may have."""
        made = (one for one in reversed(self.operations) if one.y == x or (one.kind, one.x) == (IMPORT, x))
        maker = next(made, None)
        if x in self.shared or maker is None:
            return None
        if maker.kind in (CONV, IMPORT):
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


def _stages(operations: list[Operation]) -> list[Stage]:
    """The same, divided where an operation comes after a call."""
    stages = [Stage([], [])]
    for one in operations:
        if one.kind == CALL:
            stages[-1].calls.append(one.node)
            continue
        if stages[-1].calls:
            stages.append(Stage([], []))
        stages[-1].operations.append(one)
    return stages


def _averages(node: fx.Node) -> bool:
    """Whether a node averages over the positions of a map."""
    return node.op == "call_method" and node.target == "mean" and node.args[1:] == ((2, 3),) and not node.kwargs


def _fits(conv: Conv2d) -> bool:
    size = conv.kernel_size[0]
    same = conv.kernel_size == (size, size) and conv.padding == (size // 2, size // 2) and conv.dilation == (1, 1)
    return same and size in (1, 3) and conv.stride in ((1, 1), (2, 2)) and conv.padding_mode == "zeros"


def _is_plain(pool: nn.Module) -> bool:
    return not pool.ceil_mode and all(isinstance(n, int) for n in (pool.kernel_size, pool.stride, pool.padding))


def _is_mean_of_nine(pool: nn.AvgPool2d) -> bool:
    whole = pool.count_include_pad and pool.divisor_override is None
    return whole and (pool.kernel_size, pool.stride, pool.padding) == (3, 1, 1)
