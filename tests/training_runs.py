"""Small runs for the tests of training: in this process or as real commands."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from forked import Forked
from small_runs import TINY, last_of_each, without_times

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    *TINY,
    "data.train_size=96",
    "data.val_size=100",
    "data.test_size=100",
    "evaluation.batch_size=100",
    "evaluation.precise_images=60",
    "batch_size=8",
    "logging.progress=none",
    "logging.tensorboard=false",
    "logging.grad_norm_steps=5",
]

# What may be wrong with training, and what may help it: name → overrides. A handful of steps show each.
STEPS = ("data.train_size=32", "data.val_size=10", "data.test_size=10", "evaluation.precise_images=0")
TECHNIQUES = {
    "mixup": ["augment.mixup=0.4"],
    "cutmix": ["augment.cutmix=1"],
    "mixup and cutmix": ["augment.mixup=0.4", "augment.cutmix=1"],
    "label smoothing": ["augment.label_smoothing=0.1"],
    "resizing": ["augment.resize=[[0,16],[0.3,24],[0.6,32]]"],
    "views": ["augment.tta=zoom_rotate_crop", "augment.tta_average=probabilities"],
    "raw": ["data.input=raw"],
    "unit": ["data.input=unit", "data.channel_scale=3", "data.test_channel_scale=1"],
    "symmetric": ["data.input=symmetric"],
    "per_image": ["data.input=per_image"],
    "min_max": ["data.input=min_max"],
    "percentile": ["data.input=percentile"],
    "three_sigma": ["data.input=three_sigma"],
    "noise": ["data.noise=gaussian", "data.noise_strength=0.2", "data.bits=5", "data.test_noise=rician"],
    "wrong labels": ["data.label_noise=0.5"],
    "brightness": ["data.labels=brightness", "evaluation.target_acc=50"],
}


def metrics(folder: Path) -> list[dict]:
    """metrics.csv as text, without the times."""
    with open(folder / "metrics.csv") as file:
        return [without_times(row) for row in csv.DictReader(file)]


def outcomes(result: dict) -> list[dict]:
    """The entries of a result without what a clock measured and how many were stacked."""
    return [{k: v for k, v in without_times(entry).items() if k != "stack"} for entry in result["replicates"]]


def forked(*overrides, output) -> Forked:
    """The command in a process that finds torch imported."""
    return Forked(ROOT, *SMALL, f"output={output}", *overrides)


def command(*overrides, output, launcher=("-m", "normbench")) -> subprocess.Popen:
    """A real process: `python -m normbench …`."""
    return subprocess.Popen(
        [sys.executable, *launcher, *last_of_each([*SMALL, f"output={output}", *overrides])],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def only_folder(output: Path) -> Path:
    """The folder of the only run in an output folder."""
    (folder,) = (path for path in Path(output).iterdir() if path.is_dir())
    return folder
