"""Speed of the training loop against plain PyTorch loops, and the cost of every method's layer, in one process each.

python scripts/benchmark.py                              all cases on one thread, about ten minutes
python scripts/benchmark.py --case resnet8-group-2       one of them; --threads 2 --rounds 3: otherwise
python scripts/benchmark.py layers                       a convolution with each method beside batch normalization's
python scripts/benchmark.py --to results/benchmark       also keep the table, with command, commit and machine

The plain loop is what a user would write: torch's layers, DataLoader, torchvision's transforms, SGD. The bare loop is
the same without loading: one batch of floats again and again. Ours does what the plain loop does, on the same images:
crop, flip, standardization, forward, backward, step. Rounds alternate between the contestants; a figure is the median
over rounds of the mean time of a step and replicate, warm-up steps left out, and a ratio the median of those within
a round. The share: what all convolutions multiply and add in that time, over what the best matrix product of this
process would.

A layer is a 3×3 convolution with its normalization, forward and backward by torch; kept is what backward needs.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from normbench.analysis.tables_io import write
from normbench.cli import CommandLine, one_line, whole
from normbench.config.overrides import plan
from normbench.config.resolve import resolve
from normbench.config.sizes import MOST_THREADS
from normbench.data import load_dataset
from normbench.errors import InputError, UserError, choices_text
from normbench.kernels.library import NoKernels, library
from normbench.norms import NORMS, Layers
from normbench.records.environment import environment
from normbench.records.files import require_writable, write_whole
from normbench.tasks import make_task
from normbench.tasks.build import feature_maps, make_model
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import steps
from normbench.words import markdown

WARM_UP = 5
QUIET = 0.9  # of the time that passes has to be this process's, on one thread
SIDE = 768  # of the matrices
PASSES = 20  # of a layer
SHAPES = ((2, 16, 32, 32), (2, 64, 8, 8), (32, 16, 32, 32), (32, 64, 8, 8))  # of a CIFAR-ResNet's first and last stage
# Key of a row → head and form of its column.
HEADS = {
    "case": ("model, norm, batch size", ""),
    "contestant": ("contestant", ""),
    "ms_per_step_and_replicate": ("ms per step and replicate", ".2f"),
    "over_plain": ("× plain", ".2f"),
    "over_bare": ("× bare", ".2f"),
    "share_of_matrix_product": ("share", ".2f"),
    "shape": ("input", ""),
    "method": ("method", ""),
    "ms": ("ms", ".3f"),
    "over_batch": ("× batch", ".2f"),
    "kept_mib": ("kept, MiB", ".2f"),
    "kept_over_batch": ("× batch", ".2f"),
}


@dataclass(frozen=True)
class Case:
    depth: int
    norm: str
    batch_size: int
    stacks: tuple[int, ...]
    steps: int

    @property
    def name(self) -> str:
        return f"resnet{self.depth}-{self.norm}-{self.batch_size}"


CASES = [
    *(Case(8, norm, 2, (1, 8, 16), 100) for norm in ("batch", "group", "none")),
    Case(8, "batch", 8, (1, 8), 60),
    Case(8, "batch", 32, (1, 8), 30),
    Case(20, "batch", 128, (1,), 8),
]
LAYERS = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(8, channels),
    "none": lambda channels: nn.Identity(),
}


class PlainBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, norm):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs)
        self.more = outputs - inputs

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.more))
        return F.relu(x + y)


def plain_resnet(depth, norm):
    blocks, inputs = [], 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            blocks.append(PlainBlock(inputs, width, 2 if stage and not block else 1, norm))
            inputs = width
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), norm(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class PlainImages(torch.utils.data.Dataset):
    def __init__(self, data):
        self.images, self.labels = data.train_images.permute(0, 3, 1, 2).contiguous(), data.train_labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def loaded(data, batch_size, workers):
    return torch.utils.data.DataLoader(PlainImages(data), batch_size, shuffle=True, drop_last=True, num_workers=workers)


def plain_loop(case: Case, batches) -> list[float]:
    """The moments after its steps. batches: of which it takes as many as it needs."""
    model = plain_resnet(case.depth, LAYERS[case.norm]).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    moments = []
    for x, labels in batches:
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moments.append(time.perf_counter())
        if len(moments) == WARM_UP + case.steps:
            break
    return moments


def our_loop(case: Case, data, replicates: int, kernels: str) -> list[float]:
    """The moments after its steps, each of all replicates together."""
    config = configured(case, replicates, kernels)
    task = make_task(config, range(replicates), "cpu", data=data)
    count = WARM_UP + max(5, 2 * case.steps // (1 + replicates))
    wanted = replace(configured_plan(config, task), steps=count)
    return [time.perf_counter() for _ in steps(Network(config, task), task, wanted)]


def configured(case: Case, replicates: int, kernels: str):
    words = [f"model=resnet{case.depth}", f"norm={case.norm}", f"batch_size={case.batch_size}", f"kernels={kernels}"]
    words += ["data=patterns", f"replicates={replicates}", f"stack={replicates}", "device=cpu"]
    return resolve(plan(words, False)[0][0].config)


def products(case: Case) -> int:
    """Multiplications and additions of all convolutions of a training step, an image: forward and both gradients."""
    maps = feature_maps(make_model(configured(case, 1, "torch"), [0]))
    found = [2 * values * conv.weight[0].numel() for conv, values in maps]
    return 3 * sum(found) - found[0]  # there is no gradient by the images


def matrix_product() -> float:
    """Operations a second of the best of ten matrix products."""
    a, b = torch.randn(2, SIDE, SIDE)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        _ = a @ b
        times.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(times)


def contestants(case: Case, data, workers: int, kernels) -> dict[str, tuple[Callable[[], list[float]], int]]:
    """Name → (its loop, replicates that it trains at a time); the first two are what the others are compared with."""
    x, labels = next(iter(loaded(data, case.batch_size, 0)))
    again = [(x, labels)] * (WARM_UP + case.steps)
    found: dict[str, tuple] = {
        "plain loop": (lambda: plain_loop(case, loaded(data, case.batch_size, workers)), 1),
        "bare loop": (lambda: plain_loop(case, again), 1),
    }
    for which in kernels:
        for count in case.stacks:
            words = f"normbench, {which} kernels" + (f", {count} replicates" if count > 1 else "")
            found[words] = (lambda count=count, which=which: our_loop(case, data, count, which), count)
    return found


def measured(case: Case, data, rounds: int, workers: int, kernels) -> list[dict]:
    """A row a contestant. Raises UserError where other work takes the processor."""
    those = contestants(case, data, workers, kernels)
    times = in_turns(case.name, those, rounds, alone=not workers)
    best, each = matrix_product(), products(case) * case.batch_size
    plain, bare = list(times.values())[:2]
    return [
        {
            "case": case.name,
            "contestant": name,
            "ms_per_step_and_replicate": 1000 * statistics.median(seconds),
            "over_plain": ratio(plain, seconds),
            "over_bare": ratio(bare, seconds),
            "share_of_matrix_product": each / statistics.median(seconds) / best,
        }
        for name, seconds in times.items()
    ]


def in_turns(name: str, those: dict[str, tuple], rounds: int, alone: bool = True) -> dict[str, list[float]]:
    """Of each contestant, its seconds a step and replicate in every round. Raises UserError on a busy machine."""
    times = {contestant: [] for contestant in those}
    began, used = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        for contestant, (loop, replicates) in those.items():
            moments = loop()
            steps_done = len(moments) - WARM_UP
            times[contestant].append((moments[-1] - moments[WARM_UP - 1]) / steps_done / replicates)
    free = (time.process_time() - used) / (time.perf_counter() - began)
    if alone and free < QUIET:
        raise UserError(f"{name}: the processor was free for {free:.0%} of the time alone; wait for quiet")
    return times


def ratio(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


# --- Layers. ---


def layer_loop(layer, x) -> list[float]:
    """The moments after some passes forward and backward."""
    moments = []
    for _ in range(WARM_UP + PASSES):
        layer.zero_grad()
        x.grad = None
        layer(x).sum().backward()
        moments.append(time.perf_counter())
    return moments


def kept(layer, x) -> int:
    """Bytes that the backward pass of a layer needs, each memory counted once."""
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(found.values())


def measured_layers(shape: tuple[int, ...], rounds: int) -> list[dict]:
    """A row a method, for inputs N×C×H×W of this shape and as many channels out."""
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    layers = {name: Layers(name).conv_norm(shape[1], shape[1], 3).train() for name in NORMS}
    for layer in layers.values():
        layer.to(memory_format=torch.channels_last)
        nn.init.kaiming_normal_(layer[0].weight)
    name = "×".join(map(str, shape))
    times = in_turns(
        name, {one: (lambda layer=layer: layer_loop(layer, x), 1) for one, layer in layers.items()}, rounds
    )
    memory = {one: kept(layer, x) for one, layer in layers.items()}
    return [
        {
            "shape": name,
            "method": one,
            "ms": 1000 * statistics.median(seconds),
            "over_batch": ratio(seconds, times["batch"]),
            "kept_mib": memory[one] / 2**20,
            "kept_over_batch": memory[one] / memory["batch"],
        }
        for one, seconds in times.items()
    ]


def kernels() -> tuple[str, ...]:
    """Those that are there."""
    try:
        library()
    except NoKernels as reason:
        print(f"{sys.argv[0]}: no native kernels: {reason}", file=sys.stderr)
        return ("torch",)
    return ("torch", "native")


def table(rows: list[dict]) -> str:
    columns = [(key, *HEADS[key]) for key in rows[0]]
    alignment = "".join("r" if form else "l" for _, _, form in columns)
    cells = [[f"{row[key]:{form}}" for key, _, form in columns] for row in rows]
    return markdown([head for _, head, _ in columns], alignment, cells)


@one_line
def main():
    parser = CommandLine(__doc__)
    parser.add_argument(
        "what", nargs="?", choices=("train", "layers"), default="train", help="what is measured (train)"
    )
    parser.add_argument("--case", action="append", help=f"repeatable: {', '.join(case.name for case in CASES)}")
    parser.add_argument("--rounds", type=whole(1, 1000), default=5)
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=1)
    parser.add_argument("--workers", type=whole(0, MOST_THREADS), default=0, help="of the plain loop's DataLoader")
    parser.add_argument("--to", type=Path, help="folder for the table")
    arguments = parser.parse_args()
    names = [case.name for case in CASES]
    for name in arguments.case or ():
        if name not in names:
            raise InputError("case", name, choices_text(name, names))
    if arguments.to:
        require_writable(arguments.to)
    torch.set_num_threads(arguments.threads)
    rows = []
    if arguments.what == "layers":
        for shape in SHAPES:
            rows += measured_layers(shape, arguments.rounds)
    else:
        data = load_dataset("patterns", root=None, val_size=1000)  # speed does not depend on what the images show
        there = kernels()
        for case in CASES:
            if not arguments.case or case.name in arguments.case:
                print(f"{sys.argv[0]}: {case.name}", file=sys.stderr)
                rows += measured(case, data, arguments.rounds, arguments.workers, there)
    print(table(rows))
    if arguments.to:
        keep(rows, arguments)


def keep(rows: list[dict], arguments) -> None:
    env = environment("cpu", arguments.threads, 1)
    told = {"device": env["device"], "threads": env["threads"], "torch": env["packages"]["torch"]}
    command = " ".join(["python", *sys.argv])
    told |= {"commit": env["commit"], "dirty": env["dirty"], "command": command}
    write(pd.DataFrame(rows).assign(**told), arguments.to / f"{arguments.what}.csv")
    words = f"`{command}` at commit {env['commit']}{' (changed)' if env['dirty'] else ''}, on {env['device']}, "
    words += f"torch {told['torch']}; threads: {env['threads']}, rounds: {arguments.rounds}."
    title = "Speed of training" if arguments.what == "train" else "Cost of layers"
    write_whole(arguments.to / f"{arguments.what}.md", f"# {title}\n\n{words}\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()
