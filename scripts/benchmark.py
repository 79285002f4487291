"""Speed of the training loop against a plain PyTorch loop, side by side in one process.

python scripts/benchmark.py                      all of it, about five minutes on two cores
python scripts/benchmark.py --only small-batch   ResNet-8, batch 2: ms per step and replicate, 1 or more stacked
python scripts/benchmark.py --only large-batch   ResNet-20, batch 128: images per second

The plain loop is what a user would write: torch's layers, DataLoader, torchvision's transforms, SGD. Both do the same
work on the same images: crop, flip, standardization, forward, backward, step. Rounds alternate between the contestants;
a contestant's figure is the median over rounds of its mean time per step, warm-up steps left out, and the ratio is the
median of the ratios within a round.
"""

import statistics
import time
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from normbench.cli import CommandLine, one_line, whole
from normbench.config.overrides import plan
from normbench.config.resolve import resolve
from normbench.config.sizes import MOST_THREADS
from normbench.data import load_dataset
from normbench.tasks import make_task
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import steps

WARM_UP = 5


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


def plain_loop(data, depth, norm, batch_size, steps, workers) -> float:
    """Seconds per step."""
    model = plain_resnet(depth, norm).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loader = torch.utils.data.DataLoader(
        PlainImages(data), batch_size, shuffle=True, drop_last=True, num_workers=workers
    )
    for step, (x, labels) in enumerate(loader):
        if step == WARM_UP:
            start = time.perf_counter()
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == WARM_UP + steps - 1:
            return (time.perf_counter() - start) / steps
    raise ValueError("the data has too few batches")


def our_loop(data, overrides, replicates, count) -> float:
    """Seconds per step of all replicates together."""
    jobs, _, _ = plan([*overrides, f"replicates={replicates}", f"stack={replicates}"], False)
    config = resolve(jobs[0].config)
    task = make_task(config, range(replicates), "cpu", data=data)
    wanted = replace(configured_plan(config, task), steps=WARM_UP + count)
    times = [time.perf_counter() for _ in steps(Network(config, task), task, wanted)]
    return (times[-1] - times[WARM_UP - 1]) / count


def compare(title, contestants, rounds, unit):
    """contestants: name → (function giving seconds per step, replicates it trains); the first is the reference."""
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (measure, replicates) in contestants.items():
            times[name].append(measure() / replicates)
    reference = next(iter(times.values()))
    print(f"\n{title}; median of {rounds} alternating rounds, {torch.get_num_threads()} threads")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(reference, seconds, strict=True))
        print(f"  {name:<44} {unit(statistics.median(seconds)):>22}   ×{ratio:.2f}")


@one_line
def main():
    parser = CommandLine(__doc__)
    parser.add_argument("--only", choices=("small-batch", "large-batch"))
    parser.add_argument("--rounds", type=whole(1, 1000), default=5)
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=torch.get_num_threads())
    parser.add_argument("--workers", type=whole(0, MOST_THREADS), default=0, help="of the plain loop's DataLoader")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_dataset("patterns", root=None, val_size=1000)  # speed does not depend on what the images show
    workers = arguments.workers
    layers = {"batch": nn.BatchNorm2d, "group": lambda channels: nn.GroupNorm(8, channels)}

    if arguments.only != "large-batch":
        for norm, layer in layers.items():
            ours = ["data=patterns", "model=resnet8", "batch_size=2", f"norm={norm}"]
            compare(
                f"ResNet-8, {norm}, batch 2: ms per step and replicate",
                {
                    "plain PyTorch": (lambda layer=layer: plain_loop(data, 8, layer, 2, 200, workers), 1),
                    "normbench, 1 replicate": (lambda ours=ours: our_loop(data, ours, 1, 200), 1),
                    "normbench, 8 replicates stacked": (lambda ours=ours: our_loop(data, ours, 8, 60), 8),
                    "normbench, 16 replicates stacked": (lambda ours=ours: our_loop(data, ours, 16, 30), 16),
                },
                arguments.rounds,
                lambda seconds: f"{1000 * seconds:.2f} ms",
            )
    if arguments.only != "small-batch":
        ours = ["data=patterns", "model=resnet20", "batch_size=128", "norm=batch"]
        compare(
            "ResNet-20, batch, batch 128: images per second",
            {
                "plain PyTorch": (lambda: plain_loop(data, 20, nn.BatchNorm2d, 128, 15, workers), 1),
                "normbench": (lambda: our_loop(data, ours, 1, 15), 1),
            },
            arguments.rounds,
            lambda seconds: f"{128 / seconds:.0f} images/s",
        )


if __name__ == "__main__":
    main()
