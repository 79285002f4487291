"""Training steps: plain PyTorch loops, ours, and JAX where it is installed."""

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from benchmarks.machine import matrix_product
from benchmarks.side_by_side import WARM_UP, in_turns, ratio
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from normbench.config.overrides import plan
from normbench.config.resolve import resolve
from normbench.data import load_dataset
from normbench.errors import InputError, choices_text
from normbench.kernels.library import NoKernels, library
from normbench.tasks import make_task
from normbench.tasks.build import feature_maps, make_model
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import steps

MOST_BY_JAX = 8  # images of a batch: with more it takes a multiple of the plain loop's time


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


def plain_loop(case: Case, batches, device: str) -> list[float]:
    """The moments after its steps. batches: of which it takes as many as it needs."""
    model = plain_resnet(case.depth, LAYERS[case.norm]).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    moments = []
    for x, labels in batches:
        x, labels = x.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moments.append(now(device, len(moments), case.steps))
        if len(moments) == WARM_UP + case.steps:
            break
    return moments


def our_loop(case: Case, data, replicates: int, kernels: str, device: str) -> list[float]:
    """The moments after its steps, each of all replicates together."""
    config = configured(case, replicates, kernels, device)
    task = make_task(config, range(replicates), device, data=data)
    count = max(5, case.steps if device != "cpu" else 2 * case.steps // (1 + replicates))
    wanted = replace(configured_plan(config, task), steps=WARM_UP + count)
    return [now(device, i, count) for i, _ in enumerate(steps(Network(config, task), task, wanted))]


def now(device: str, done: int, count: int) -> float:
    """The clock; that of a device once it has done the last step of the warm-up, and of `count` after it."""
    if device != "cpu" and done in (WARM_UP - 1, WARM_UP + count - 1):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def configured(case: Case, replicates: int, kernels: str, device: str = "cpu"):
    words = [f"model=resnet{case.depth}", f"norm={case.norm}", f"batch_size={case.batch_size}", f"kernels={kernels}"]
    words += ["data=patterns", f"replicates={replicates}", f"stack={replicates}", f"device={device}"]
    return resolve(plan(words, False)[0][0].config)


def products(case: Case) -> int:
    """Multiplications and additions of all convolutions of a training step, an image: forward and both gradients."""
    maps = feature_maps(make_model(configured(case, 1, "torch"), [0]))
    found = [2 * values * conv.weight[0].numel() for conv, values in maps]
    return 3 * sum(found) - found[0]  # there is no gradient by the images


def contestants(
    case: Case, data, workers: int, kernels, device: str
) -> dict[str, tuple[Callable[[], list[float]], int]]:
    """Name → (its loop, replicates that it trains at a time); the first two are what the others are compared with."""
    x, labels = next(iter(loaded(data, case.batch_size, 0)))
    again = [(x.to(device), labels.to(device))] * (WARM_UP + case.steps)
    tensors = {name: value.to(device) for name, value in vars(data).items() if torch.is_tensor(value)}
    ours = replace(data, **tensors)
    found: dict[str, tuple] = {
        "plain loop": (lambda: plain_loop(case, loaded(data, case.batch_size, workers), device), 1),
        "bare loop": (lambda: plain_loop(case, again, device), 1),
    }
    for which in kernels:
        for count in case.stacks:
            words = f"normbench, {which} kernels" + (f", {count} replicates" if count > 1 else "")
            found[words] = (lambda count=count, which=which: our_loop(case, ours, count, which, device), count)
    if device == "cpu" and case.batch_size <= MOST_BY_JAX and importlib.util.find_spec("jax"):
        for count in sorted({1, min(8, case.stacks[-1])}):
            words = "JAX, jit" + (f" of vmap, {count} replicates" if count > 1 else "")
            found[words] = (lambda count=count: by_jax(case, count), count)
    return found


def by_jax(case: Case, replicates: int) -> list[float]:
    """The moments after its steps, of floats that are there: what the bare loop does."""
    if torch.get_num_threads() == 1:  # read when JAX is imported
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    from benchmarks.jax_loop import jax_loop

    return jax_loop(case, WARM_UP + max(5, case.steps // replicates), replicates)


def rows(wanted: list[str] | None, rounds: int, workers: int, device: str) -> list[dict]:
    """A row a contestant of these cases; of all where none is named. workers: of the plain loop's DataLoader.

    Raises InputError for a case that there is not.
    """
    names = [case.name for case in CASES]
    for name in wanted or ():
        if name not in names:
            raise InputError("case", name, choices_text(name, names))
    data, there = load_dataset("patterns", root=None, val_size=1000), kernels(device)  # whatever the images show
    found = []
    for case in CASES:
        if not wanted or case.name in wanted:
            print(f"{sys.argv[0]}: {case.name}", file=sys.stderr)
            found += measured(case, data, rounds, workers, there, device)
    return found


def measured(case: Case, data, rounds: int, workers: int, kernels, device: str) -> list[dict]:
    """A row a contestant. Raises UserError where other work takes the processor."""
    those = contestants(case, data, workers, kernels, device)
    times = in_turns(case.name, those, rounds, alone=not workers and device == "cpu")
    best, each = matrix_product(device), products(case) * case.batch_size
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


def kernels(device: str = "cpu") -> tuple[str, ...]:
    """Those that are there."""
    if device != "cpu":
        return ("torch", "graph")
    try:
        library()
    except NoKernels as reason:
        print(f"{sys.argv[0]}: no native kernels: {reason}", file=sys.stderr)
        return ("torch",)
    return ("torch", "native")
